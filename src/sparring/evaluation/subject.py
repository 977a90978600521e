"""What is under evaluation: one classifier and the examples it is asked about, checked once and made uniform.

A user's model may be in half precision, may have a single logit, may refuse to answer, may hold a step that no gradient
passes. Here it becomes a frozen `[B, ...] -> [B, K]` classifier in float32, so that no attack and no check has to ask.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparring.core.gain import ClassifierGain
from sparring.core.game import Batch
from sparring.core.gradient import frozen
from sparring.core.payoff import Loss, TargetedLoss, margin, margin_towards

UNDERFLOW_SCALE = 2.0**10
"""What gradients inside a float16 model are multiplied by, and divided by again where they leave it."""

Say = Callable[[str], None]


class Team(Protocol):
    """The processes that evaluate together, as one of them sees them: each does every `world`-th chunk of the examples
    and tells the others. All have to ask for the same things in the same order."""

    @property
    def rank(self) -> int: ...
    @property
    def world(self) -> int: ...
    def broadcast(self, thing: Any, source: int = 0) -> Any:
        """What process `source` gave; tensors on the CPU."""
        ...


def in_turn(team: Team | None, count: int, do: Callable[[int], dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """`do(0) ... do(count - 1)`, each called by one process of the team and given to all."""
    if team is None or team.world == 1:
        yield from map(do, range(count))
        return
    mine = {i: {k: v.cpu() for k, v in do(i).items()} for i in range(team.rank, count, team.world)}
    for i in range(count):
        yield team.broadcast(mine.pop(i, None), i % team.world)


@dataclass(frozen=True)
class Subject:
    """A classifier and N examples.

    Args:
        model: `[B, ...] -> [B, K]` logits in float32 or wider, as `subject` makes it.
        x: clean inputs `[N, ...]`.
        y: labels `[N]`.
        logits: the model's answers to x `[N, K]`.
        abstain: the class by which the model refuses to answer, or None.
        batch_size: examples at a time.
        differentiable: whether a gradient passes the model at all.
        team: the processes that share the work; None is this one alone.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    logits: Tensor
    abstain: int | None
    batch_size: int
    differentiable: bool
    team: Team | None = None

    @property
    def classes(self) -> int:
        """How many classes there are to be wrong with."""
        return self.logits.shape[1] - (self.abstain is not None)

    @property
    def clean_right(self) -> Tensor:
        """Which clean examples get their class, `[N]`; an abstention is no answer."""
        return self.logits.argmax(1) == self.y

    def gain(self, rows: Tensor, loss: Loss = margin, pull: TargetedLoss = margin_towards) -> ClassifierGain:
        """The loss of these examples as a function of z."""
        return ClassifierGain(self.model, self.y[rows], loss, self.abstain, None, pull)

    def predict(self, z: Tensor) -> Tensor:
        """Logits `[n, K]` in eval mode without gradients, `batch_size` at a time, fewer where memory ends."""
        chunks = z.split(self.batch_size)

        def answer(i: int) -> dict[str, Tensor]:
            return {"logits": in_memory(lambda z, _: self.model(z), chunks[i])}

        with frozen(self.model), torch.no_grad():
            return torch.cat([part["logits"].to(z.device) for part in in_turn(self.team, len(chunks), answer)])

    def standing(self, z: Tensor, rows: Tensor) -> Tensor:
        """Whether the model withstands z for these examples `[n]`."""
        return self.withstands(self.predict(z), rows)

    def withstands(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Whether these answers `[n, K]` to these examples are no success for the adversary `[n]`: the right class or
        an abstention, and finite."""
        _, lost = ClassifierGain(nn.Identity(), self.y[rows], margin, self.abstain).judge(logits)
        return ~lost & logits.isfinite().all(1)


def subject(
    model: nn.Module,
    data: tuple[Tensor, Tensor] | Iterable[Batch],
    *,
    low: float = 0.0,
    high: float = 1.0,
    abstain: int | None = None,
    batch_size: int = 256,
    team: Team | None = None,
) -> Subject:
    """The model and its examples, once they are what they have to be.

    Raises:
        ValueError: where x, y, the bounds or the model's output is not what it has to be; the message says what is.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"The 'batch_size' parameter must be an int in the range [1, inf). Got {batch_size!r}.")
    x, y = _gather(model, data)
    _check_inputs(x, low, high)
    model, differentiable = _uniform(model, x)
    made = Subject(model, x, y, torch.empty(0, 0), abstain, batch_size, differentiable, team)
    logits = made.predict(x)
    if logits.dim() != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        raise ValueError(
            f"The model's output must be [B, classes] with classes >= 2, or one logit per example. "
            f"Got {list(logits.shape)} for {len(y)} examples."
        )
    if not logits.isfinite().all():
        raise ValueError("The model's output on clean inputs must be finite. Got NaN or infinity.")
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError(f"Labels must be in [0, {logits.shape[1]}). Got values in [{y.min()}, {y.max()}].")
    if abstain is not None and (not 0 <= abstain < logits.shape[1] or logits.shape[1] < 3 or (y == abstain).any()):
        raise ValueError(
            f"The 'abstain' parameter must be the index of an output (of {logits.shape[1]}) that is no label, with two "
            f"classes beside it. Got {abstain}."
        )
    return Subject(model, x, y, logits, abstain, batch_size, differentiable, team)


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def in_memory(
    call: Callable[[Tensor, Tensor], Any], batch: Tensor, rows: Tensor | None = None, say: Say = _warn
) -> Any:
    """`call(batch, rows)`, in halves (and their halves) where the device's memory is too small for the whole.

    Args:
        call: takes part of the batch and the same part of rows; returns a tensor, or a tuple of tensors, to be joined.
        batch: `[B, ...]`.
        rows: `[B]`, by default 0 ... B-1.
        say: told once per halving; by default a RuntimeWarning.
    """
    rows = torch.arange(len(batch), device=batch.device) if rows is None else rows
    try:
        return call(batch, rows)
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises it plain
        if len(batch) < 2 or not out_of_memory(error):
            raise
    half = len(batch) // 2
    say(f"memory is too small for {len(batch)} examples at a time: going on with {half}")
    parts = [in_memory(call, batch[s], rows[s], say) for s in (slice(None, half), slice(half, None))]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(torch.cat(pair) for pair in zip(*parts, strict=True))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device said that its memory is used up."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor on its way back."""

    @staticmethod
    def forward(context: Any, z: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return z.view_as(z)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * context.factor, None


class Uniform(nn.Module):
    """A user's model as attacks expect one: takes z in its own dtype, answers with `[B, K]` logits, float32 at least.

    Args:
        model: the user's.
        dtype: what its parameters are in. In float16 gradients below 6e-8 would be zero, so inside the model they are
            scaled up, which changes no logit.
        single: whether it answers with one logit per example (the log-odds of class 1).
        blind: whether no gradient passes it; then z gets a gradient of zero instead of an error.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, *, single: bool, blind: bool) -> None:
        super().__init__()
        self.model, self.dtype, self.single, self.blind = model, dtype, single, blind
        self.scale = UNDERFLOW_SCALE if dtype == torch.float16 else 1.0

    def forward(self, z: Tensor) -> Tensor:
        inside = z if z.dtype == self.dtype else _scaled(z, 1 / self.scale).to(self.dtype)
        logits: Tensor = self.model(inside)
        if self.dtype in (torch.float16, torch.bfloat16):
            logits = _scaled(logits.float(), self.scale)
        if self.single:
            logits = logits.reshape(len(z), 1)
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return logits + 0 * z.flatten(1).sum(1, keepdim=True) if self.blind else logits


def _scaled(z: Tensor, factor: float) -> Tensor:
    scaled: Tensor = _ScaledGradient.apply(z, factor) if factor != 1 else z  # type: ignore[no-untyped-call]
    return scaled


def _gather(model: nn.Module, data: tuple[Tensor, Tensor] | Iterable[Batch]) -> tuple[Tensor, Tensor]:
    if not (isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor)):
        batches = list(data)
        if not batches:
            raise ValueError("data must hold at least one batch (x, y). Got none.")
        data = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    x, y = data
    if not isinstance(y, Tensor) or len(x) != len(y) or len(y) == 0 or y.is_floating_point():
        raise ValueError(
            f"data must be (x [N, ...], y [N] of class indices) with N >= 1. Got x {list(x.shape)} and y "
            f"{list(y.shape)} {y.dtype}."
        )
    parameter = next(model.parameters(), None)
    device = x.device if parameter is None else parameter.device
    wide = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else x.dtype
    return x.to(device, wide), y.to(device).long()


def _check_inputs(x: Tensor, low: float, high: float) -> None:
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point in [{low:g}, {high:g}]. Got {x.dtype}; divide 8-bit pixels by 255.")
    if not x.isfinite().all():
        row = int((~x.flatten(1).isfinite().all(1)).nonzero()[0])
        raise ValueError(f"x must be finite. Example {row} holds NaN or infinity.")
    if x.min() < low or x.max() > high:
        raise ValueError(
            f"x must be inside [{low:g}, {high:g}]. Got values in [{x.min():.4g}, {x.max():.4g}]. Put normalisation "
            "inside the model, so that eps is in input units, or pass the real bounds."
        )


def _uniform(model: nn.Module, x: Tensor) -> tuple[nn.Module, bool]:
    """The model as it is where it already answers as it should, else in `Uniform`; and whether a gradient passes."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    dtype = x.dtype if parameter is None else parameter.dtype
    probe = x[:2].detach().requires_grad_(True)
    with frozen(model), torch.enable_grad():
        logits = model(probe if dtype == x.dtype else probe.to(dtype))
    if not isinstance(logits, Tensor):
        raise ValueError(f"The model's output must be a tensor [B, classes]. Got {type(logits).__name__}.")
    single = logits.dim() == 1 or (logits.dim() == 2 and logits.shape[1] == 1)
    blind = not logits.requires_grad
    if dtype == x.dtype and dtype not in (torch.float16, torch.bfloat16) and not single and not blind:
        return model, True
    return Uniform(model, dtype, single=single, blind=blind), not blind

"""Explanations of a classifier, clean and under attack: are they faithful, are they stable, do they look where they
should. Every figure stands beside the same figure for a control that knows nothing, and its paired difference to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.gradient import frozen
from sparring.core.seeds import derive
from sparring.evaluation.faithfulness import METRICS, ranks
from sparring.evaluation.interval import accuracy, bootstrap
from sparring.evaluation.saliency import (
    METHODS,
    ExplanationError,
    Method,
    cosine,
    energy_inside,
    pointing,
    saliency,
    spearman,
    top_intersection,
)
from sparring.evaluation.ssim import ssim

Advance = Callable[[str, int, int], None]
"""`advance(stage, done, total)`."""

SIMILARITIES = (("cosine", cosine), ("spearman", spearman), ("top-10%", top_intersection), ("ssim", ssim))
CONCENTRATIONS = (("energy", energy_inside), ("pointing", pointing))


@dataclass(frozen=True)
class Explanations:
    """What was measured.

    A *figure* is `{"mean", "low", "high", "n", "control", "advantage", "beats_control"}`: a mean over examples with its
    bootstrap 95 % interval; `control`, the same of what knows nothing; `advantage`, the same of the paired difference
    between the two, above zero where knowing helps; and whether the whole interval of the advantage is above zero.

    Attributes:
        n: examples explained.
        right: accuracy on them, `clean` and `attacked`.
        flipped: the share whose prediction the attack changed.
        methods: by name,
            `clean`, `attacked`: a figure for each of `deletion, insertion, sufficiency, comprehensiveness`, of the
            class predicted there, against a random order; and `faithful`: whether all four beat it.
            `stability`: figures of `cosine, spearman, top-10%, ssim` between the clean and the attacked map, both of
            the class predicted for x (`same_class`) or each of its own prediction (`as_shown`), against another
            example's clean map; and `faithful`: whether the maps were, clean and attacked.
            `concentration`: figures of `energy, pointing` in the mask, `clean` and `attacked`, against the mask's share
            of the image; None without masks.
        left_out: by name, why a method has nothing to say about such a model.
        maps: of a few examples, on the CPU: `x, z, y`; `rows`, where they stand in the inputs given, int64;
            `prediction/clean` and `prediction/attacked`, int64; and of every method `METHOD/clean` and
            `METHOD/attacked`, each of its own prediction.
    """

    n: int
    right: dict[str, Any]
    flipped: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    left_out: dict[str, str]
    maps: dict[str, Tensor]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON types."""
        return {name: value for name, value in vars(self).items() if name != "maps"}


def explanations(
    model: nn.Module,
    x: Tensor,
    z: Tensor,
    y: Tensor,
    *,
    masks: Tensor | None = None,
    seed: int,
    count: int = 100,
    batch_size: int = 256,
    advance: Advance | None = None,
    methods: Sequence[tuple[str, Method]] = METHODS,
    shown: int = 8,
) -> Explanations:
    """Explain a classifier's predictions on clean and attacked inputs, and measure the explanations.

    Args:
        model: `[B, ...] -> [B, K]` logits; asked in eval mode, left as it was.
        x: clean inputs `[N, C, *space]` or `[N, n]`.
        z: the attacked ones; an example where z equals x was not attacked and is left out.
        y: labels `[N]`.
        masks: foreground of each example, bool `[N, *space]`; an empty one stands for none.
        seed: of the choice of examples, the random order and the bootstrap. Two models under one seed are asked about
            the same examples, but for those that an attack moved for one of them only.
        count: how many examples to draw; all of them where there are fewer.
        batch_size: examples at a time.
        advance: told of every stage.
        methods: name and method of each explanation; one that raises `ExplanationError` on the first example is left
            out, with its reason.
        shown: how many examples' maps to keep.

    Raises:
        ValueError: where the shapes do not fit together, fewer than two examples were attacked, or a map is not finite.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise ValueError(f"The 'count' parameter must be an int in the range [2, inf). Got {count!r} instead.")
    _check_shapes(x, z, y, masks)
    rows = _drawn(x, z, seed, count)
    x, z, y = x[rows], z[rows], y[rows]
    usable, left_out = _usable(model, x[:1], y[:1], methods)
    inputs = {"clean": x, "attacked": z}
    predicted = {state: _predicted(model, value, batch_size) for state, value in inputs.items()}
    flipped = predicted["clean"] != predicted["attacked"]
    rng = torch.Generator().manual_seed(derive(seed, "order"))
    draw = torch.rand((len(x), x[0, 0].numel() if x.dim() > 2 else x.shape[1]), generator=rng).to(x.device)
    say = _Stages(advance, total=2 * (len(usable) + 1))

    def measured(state: str, maps: Tensor) -> dict[str, Tensor]:
        rank = ranks(maps, draw)
        return {
            name: metric(model, inputs[state], predicted[state], rank, batch_size=batch_size)
            for name, metric, _ in METRICS
        }

    control = {}
    for state in inputs:
        say(f"random order, {state}")
        control[state] = measured(state, torch.zeros_like(draw))
    reports, kept = {}, {"x": x[:shown], "z": z[:shown], "y": y[:shown], "rows": rows[:shown]}
    kept |= {f"prediction/{state}": value[:shown] for state, value in predicted.items()}
    for name, method in usable:
        maps, faithful = {}, {}
        for state in inputs:
            say(f"{name}, {state}")
            maps[state] = saliency(model, inputs[state], predicted[state], method, batch_size=batch_size)
            faithful[state] = _faithful(measured(state, maps[state]), control[state], seed)
            kept[f"{name}/{state}"] = maps[state][:shown]
        same = maps["attacked"].clone()
        same[flipped] = saliency(model, z[flipped], predicted["clean"][flipped], method, batch_size=batch_size).to(same)
        reports[name] = {
            **faithful,
            "stability": {
                "same_class": _stability(maps["clean"], same, seed),
                "as_shown": _stability(maps["clean"], maps["attacked"], seed),
                "faithful": all(part["faithful"] for part in faithful.values()),
            },
            "concentration": None if masks is None else _concentration(maps, masks[rows], seed),
        }
    return Explanations(
        n=len(y),
        right={state: accuracy(predicted[state] == y) for state in inputs},
        flipped=_interval(flipped.double(), seed),
        methods=reports,
        left_out=left_out,
        maps={name: value.detach().cpu().contiguous() for name, value in kept.items()},
    )


def _check_shapes(x: Tensor, z: Tensor, y: Tensor, masks: Tensor | None) -> None:
    if x.shape != z.shape or x.dim() < 2 or y.shape != x.shape[:1]:
        raise ValueError(
            "x and z must be [N, C, *space] or [N, n] of one shape, and y [N]. "
            f"Got x {list(x.shape)}, z {list(z.shape)} and y {list(y.shape)}."
        )
    space = x.shape[2:] if x.dim() > 2 else x.shape[1:]
    if masks is not None and (masks.dtype != torch.bool or masks.shape != (len(x), *space)):
        raise ValueError(f"masks must be bool {[len(x), *space]}. Got {masks.dtype} {list(masks.shape)}.")


def _drawn(x: Tensor, z: Tensor, seed: int, count: int) -> Tensor:
    """The first examples that the attack moved, in a random order of all: what it moved elsewhere changes no order."""
    moved = (x != z).flatten(1).any(1)
    if moved.sum() < 2:
        raise ValueError(f"z must differ from x in at least 2 examples, or nothing was attacked. Got {moved.sum()}.")
    rng = torch.Generator().manual_seed(derive(seed, "explanations"))
    order = torch.randperm(len(x), generator=rng).to(x.device)
    return order[moved[order]][:count]


def _usable(
    model: nn.Module, x: Tensor, target: Tensor, methods: Sequence[tuple[str, Method]]
) -> tuple[list[tuple[str, Method]], dict[str, str]]:
    """The methods that can explain such a model, by the first example, and why the others cannot."""
    usable, left_out = [], {}
    for name, method in methods:
        try:
            saliency(model, x, target, method)
        except ExplanationError as reason:
            left_out[name] = str(reason)
        else:
            usable.append((name, method))
    return usable, left_out


def _predicted(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    with frozen(model), torch.no_grad():
        return torch.cat([model(chunk).argmax(1) for chunk in x.split(batch_size)])


@dataclass
class _Stages:
    """Tells `advance` of one stage after the other."""

    advance: Advance | None
    total: int
    done: int = 0

    def __call__(self, stage: str) -> None:
        if self.advance is not None:
            self.advance(stage, self.done, self.total)
        self.done += 1


def _faithful(found: dict[str, Tensor], control: dict[str, Tensor], seed: int) -> dict[str, Any]:
    figures = {name: _figure(found[name], control[name], sign, seed) for name, _, sign in METRICS}
    return {**figures, "faithful": all(figure["beats_control"] for figure in figures.values())}


def _stability(clean: Tensor, attacked: Tensor, seed: int) -> dict[str, Any]:
    other = clean.roll(1, 0)
    return {name: _figure(alike(clean, attacked), alike(clean, other), 1, seed) for name, alike in SIMILARITIES}


def _concentration(maps: dict[str, Tensor], masks: Tensor, seed: int) -> dict[str, Any] | None:
    there = masks.flatten(1).any(1)
    if not there.any():
        return None
    share = masks[there].flatten(1).double().mean(1)
    return {
        state: {name: _figure(inside(value[there], masks[there]), share, 1, seed) for name, inside in CONCENTRATIONS}
        for state, value in maps.items()
    }


def _figure(found: Tensor, control: Tensor, sign: int, seed: int) -> dict[str, Any]:
    advantage = _interval(sign * (found - control), seed)
    return {
        **_interval(found, seed),
        "n": len(found),
        "control": _interval(control, seed),
        "advantage": advantage,
        "beats_control": advantage["low"] > 0,
    }


def _interval(values: Tensor, seed: int) -> dict[str, float]:
    """The mean, and its bootstrap interval: from the same resamples for every figure of one length."""
    values = values.double().cpu()
    rng = torch.Generator().manual_seed(derive(seed, "bootstrap"))
    low, high = bootstrap(lambda rows: values[rows].mean().item(), len(values), rng)
    return {"mean": values.mean().item(), "low": low, "high": high}

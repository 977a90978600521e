"""GCG: the greedy coordinate gradient, for a suffix of token ids that many prompts share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sparring.core.standing import check_count


class TokenGain(Protocol):
    """What one prompt has to say about a suffix: how far it pulls the model to what the adversary wants."""

    def __call__(self, ids: Tensor, /) -> Tensor:
        """Suffixes `[M, S]` int64 -> gains `[M]`."""
        ...

    def slope(self, ids: Tensor, /) -> Tensor:
        """The gradient at one suffix `[S]` with respect to its one-hot tokens, `[S, V]`."""
        ...


@dataclass(frozen=True)
class Suffix:
    """What GCG found.

    Attributes:
        ids: the suffix with the highest total gain over all prompts that it was looked for on `[S]`.
        gain: that total, divided by the number of prompts in play.
        in_play: how many of the prompts it was looked for on; all, unless steps ran out before.
        steps: gradient steps taken.
        done: whether `done` said yes for every prompt.
        history: the mean gain over the prompts in play of the suffix that each step went on from.
    """

    ids: Tensor
    gain: float
    in_play: int
    steps: int
    done: bool
    history: tuple[float, ...]


def gcg(
    gains: Sequence[TokenGain],
    start: Tensor,
    *,
    steps: int = 250,
    candidates: int = 512,
    top: int = 256,
    replace: int = 1,
    buffer: int = 0,
    progressive: bool = True,
    allowed: Tensor | None = None,
    keeps: Callable[[Tensor], Tensor] | None = None,
    done: Callable[[int, Tensor], bool] | None = None,
    rng: torch.Generator | None = None,
) -> Suffix:
    """Zou et al., "Universal and transferable adversarial attacks on aligned language models", 2023. Each step sums the
    gradients of all prompts in play, keeps at each position the tokens that promise most, draws candidates that replace
    a few positions by some of them, asks about all of them, and goes on from the best.

    Defaults are those of nanoGCG: 250 steps, 512 candidates from 256 tokens a position, one replaced. The original
    takes 500 steps and goes on from the best candidate of a step, also downhill, which `buffer=0` does. A buffer of b,
    an idea of ACG, remembers the b best suffixes so far and goes on from the best of them that it has not gone on from
    before (where there is none, from the best): a step that brought nothing is taken back.

    Args:
        gains: one for each prompt, all over suffixes of the same length and vocabulary.
        start: the first suffix `[S]` int64; its length is the suffix's.
        steps: from 1.
        candidates: asked about in each step.
        top: tokens considered at each position.
        replace: positions that each candidate draws anew, at most S.
        buffer: suffixes remembered, from 0; see above.
        progressive: start with the first prompt, and add the next whenever `done` says yes for all in play. Without
            `done` all are in play from the start.
        allowed: which tokens may stand in a suffix `[V]` bool (no special tokens, ASCII only); None for all.
        keeps: `[M, S] -> [M]` bool, which suffixes are still the same tokens once decoded and encoded again: others
            could not be sent as text, and are not asked about.
        done: `(prompt, ids [S]) -> bool`, whether the suffix has done its work on this prompt (an exact greedy match of
            the target, say). Asked about the suffix that the search stands at; the attack ends when it holds for all.
        rng: source of positions and tokens, on the CPU.

    Raises:
        ValueError: for a count out of its range, no prompts, or a start that is not `[S]` int64 or not allowed.
    """
    _check(gains, start, steps=steps, candidates=candidates, top=top, replace=replace, buffer=buffer, allowed=allowed)
    hunt = _Hunt(gains, 1 if progressive and done is not None else len(gains), buffer)
    z = start.clone()
    hunt.restart(z)
    history = []
    taken, finished = 0, hunt.advance(z, done)
    while taken < steps and not finished:
        tried = propose(
            hunt.slope(z), z, candidates=candidates, top=top, replace=replace, allowed=allowed, keeps=keeps, rng=rng
        )
        taken += 1
        if len(tried):
            z = hunt.ask(tried)
        history.append(hunt.height)
        finished = hunt.advance(z, done)
    best, height = (z, hunt.height) if finished else hunt.best
    return Suffix(best, height, hunt.in_play, taken, finished, tuple(history))


@torch.no_grad()
def propose(
    slope: Tensor,
    z: Tensor,
    *,
    candidates: int,
    top: int,
    replace: int = 1,
    allowed: Tensor | None = None,
    keeps: Callable[[Tensor], Tensor] | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Candidates `[M, S]`, M at most `candidates`, all different, none z itself: at `replace` positions of z each has
    tokens drawn among the `top` of its slope there, which may be those that z has. See `gcg` for the arguments."""
    length, vocabulary = slope.shape
    if allowed is not None:
        slope = slope.masked_fill(~allowed.to(slope.device), -torch.inf)
    room = vocabulary if allowed is None else int(allowed.sum())
    best = slope.topk(min(top, room), dim=1).indices.cpu()
    places = torch.rand((candidates, length), generator=rng).argsort(dim=1)[:, :replace]
    drawn = torch.randint(best.shape[1], (candidates, replace), generator=rng)
    tried = z.cpu().repeat(candidates, 1).scatter_(1, places, best[places, drawn])
    tried = tried[(tried != z.cpu()).any(1)]
    distinct: Tensor = torch.unique(tried, dim=0).to(z.device)
    return distinct if keeps is None else distinct[keeps(distinct)]


@dataclass
class _Kept:
    """A remembered suffix: its gain, and whether the search went on from it before."""

    height: float
    ids: Tensor
    visited: bool = False


class _Hunt:
    """The prompts in play, and the suffixes worth remembering under the gain that they have together."""

    def __init__(self, gains: Sequence[TokenGain], in_play: int, buffer: int) -> None:
        self.gains, self.in_play, self.buffer = gains, in_play, buffer
        self.kept: list[_Kept] = []
        self.best: tuple[Tensor, float] = (torch.empty(0), -torch.inf)
        self.height = -torch.inf

    def restart(self, z: Tensor) -> None:
        """Forget what was valued under fewer prompts, and value z."""
        self.height = float(self._mean(z[None]))
        self.kept, self.best = [_Kept(self.height, z, visited=True)], (z, self.height)

    def slope(self, z: Tensor) -> Tensor:
        total = self.gains[0].slope(z)
        for gain in self.gains[1 : self.in_play]:
            total = total + gain.slope(z)
        return total

    def ask(self, tried: Tensor) -> Tensor:
        """Value the candidates; returns the suffix to go on from."""
        value = self._mean(tried)
        k = int(value.argmax())
        next_one = _Kept(float(value[k]), tried[k])
        if next_one.height > self.best[1]:
            self.best = next_one.ids, next_one.height
        if self.buffer:
            self._remember(tried, value)
            next_one = next((each for each in self.kept if not each.visited), self.kept[0])
            next_one.visited = True
        self.height = next_one.height
        return next_one.ids

    def advance(self, z: Tensor, done: Callable[[int, Tensor], bool] | None) -> bool:
        """Whether the work is done on all prompts; prompts are added while it is done on those in play."""
        if done is None:
            return False
        while all(done(prompt, z) for prompt in range(self.in_play)):
            if self.in_play == len(self.gains):
                return True
            self.in_play += 1
            self.restart(z)
        return False

    @torch.no_grad()
    def _mean(self, tried: Tensor) -> Tensor:
        total = self.gains[0](tried)
        for gain in self.gains[1 : self.in_play]:
            total = total + gain(tried)
        return total / self.in_play

    def _remember(self, tried: Tensor, value: Tensor) -> None:
        order = value.topk(min(self.buffer, len(value))).indices.tolist()
        known = {tuple(each.ids.tolist()) for each in self.kept}
        self.kept += [_Kept(float(value[k]), tried[k]) for k in order if tuple(tried[k].tolist()) not in known]
        self.kept = sorted(self.kept, key=lambda each: -each.height)[: self.buffer]


def _check(
    gains: Sequence[TokenGain], start: Tensor, *, replace: int, buffer: int, allowed: Tensor | None, **counts: int
) -> None:
    for name, count in counts.items():
        check_count(name, count)
    if not gains:
        raise ValueError("GCG needs at least one gain. Got none.")
    if start.dim() != 1 or start.dtype != torch.int64 or len(start) == 0:
        raise ValueError(
            "The 'start' parameter must be an int64 tensor of shape [S], S at least 1. "
            f"Got {start.dtype} of shape {list(start.shape)} instead."
        )
    if isinstance(replace, bool) or not isinstance(replace, int) or not 1 <= replace <= len(start):
        raise ValueError(f"The 'replace' parameter must be an int in the range [1, {len(start)}]. Got {replace!r}.")
    if isinstance(buffer, bool) or not isinstance(buffer, int) or buffer < 0:
        raise ValueError(f"The 'buffer' parameter must be an int in the range [0, inf). Got {buffer!r} instead.")
    if allowed is not None and not allowed[start.to(allowed.device)].all():
        wrong = int(start[~allowed[start.to(allowed.device)].to(start.device)][0])
        raise ValueError(f"The 'start' parameter must hold allowed tokens only. Got token {wrong}.")

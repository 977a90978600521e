"""What is found once for many examples: triggers of words, suffixes of tokens."""

import itertools
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from wordplay import SlopedSum, Sum, Words, table

from sparring.attacks.gcg import gcg, propose
from sparring.attacks.trigger import trigger

S, V = 5, 12


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def put(x: Words, words: tuple[int, ...]) -> Words:
    """A trigger takes the last places."""
    return (*x[: -len(words)], *words)


@pytest.mark.parametrize("method", ["hotflip", "search"])
def test_a_trigger_is_the_one_that_exhaustive_search_finds(method: Literal["hotflip", "search"]) -> None:
    n, length, vocabulary, words = 8, 5, 6, 3
    gain = SlopedSum(table(n, length, vocabulary, seed=4), threshold=1.0)
    x = [(0,) * length] * n

    def mean(each: tuple[int, ...]) -> float:
        return sum(gain.value(put(x[i], each), i) for i in range(n)) / n

    best = max(itertools.product(range(vocabulary), repeat=words), key=mean)
    found = trigger(gain, x, put, range(vocabulary), words=words, method=method, tries=vocabulary, rng=rng())
    assert found.words == best
    assert found.gain == pytest.approx(mean(best))
    assert found.lost == sum(gain.value(put(x[i], best), i) > 1.0 for i in range(n)) / n
    assert found.queries * n == len(gain.asked) + gain.gradients


def test_a_trigger_by_gradient_asks_for_less_than_a_search_and_needs_slopes() -> None:
    n, length, vocabulary = 4, 3, 60
    values = table(n, length, vocabulary)
    steep, blind = SlopedSum(values), Sum(values)
    x = [(0,) * length] * n
    first = trigger(steep, x, put, range(vocabulary), words=2, tries=1, rng=rng())
    second = trigger(blind, x, put, range(vocabulary), words=2, method="search", tries=vocabulary, rng=rng())
    assert first.words == second.words
    assert first.queries < second.queries / 10
    with pytest.raises(TypeError, match="'slopes' and 'estimates'"):
        trigger(blind, x, put, range(vocabulary), words=2, rng=rng())


def test_a_beam_finds_a_pair_that_single_words_do_not_lead_to() -> None:
    values = torch.zeros(1, 2, 4, dtype=torch.float64)
    values[0, :, 1] = 1.0
    values[0, :, 2:] = -0.5
    pairs = torch.zeros(1, 2, 2, dtype=torch.float64)

    class Pair(Sum):
        def value(self, z: Words, row: int) -> float:
            return super().value(z, row) + 5.0 * (z == (2, 3))

    def found(beam: int, seed: int) -> tuple[int, ...]:
        gain = Pair(values, pairs=pairs)
        chosen = trigger(gain, [(0, 0)], put, range(4), words=2, method="search", beam=beam, rng=rng(seed))
        return chosen.words

    seed = next(s for s in range(50) if found(1, s) == (1, 1))
    assert found(4, seed) == (2, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"words": 0}, "'words' parameter must be an int"),
        ({"method": "guess"}, "'method' parameter must be hotflip or search"),
        ({"x": []}, "Got 0 examples"),
        ({"vocabulary": []}, "and 0 words"),
    ],
)
def test_bad_arguments_of_a_trigger_are_named(change: dict[str, Any], says: str) -> None:
    arguments = {"x": [(0, 0)], "vocabulary": range(3), **change}
    with pytest.raises(ValueError, match=says):
        trigger(SlopedSum(table(1, 2, 3)), place=put, **arguments)


class Linear:
    """sum_i w[i, ids_i]: the best suffix is the best token at every position."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.asked: list[Tensor] = []

    def __call__(self, ids: Tensor, /) -> Tensor:
        self.asked.append(ids)
        return self.weight.expand(len(ids), -1, -1).gather(2, ids[:, :, None]).sum((1, 2))

    def slope(self, ids: Tensor, /) -> Tensor:
        return self.weight


def linear(seed: int) -> Linear:
    return Linear(torch.randn((S, V), generator=rng(seed), dtype=torch.float64))


START = torch.zeros(S, dtype=torch.int64)


@pytest.mark.parametrize("buffer", [0, 4])
@pytest.mark.parametrize("replace", [1, 2])
def test_gcg_finds_the_closed_form_of_a_linear_gain(buffer: int, replace: int) -> None:
    gain = linear(0)
    found = gcg([gain], START, steps=60, candidates=64, top=6, replace=replace, buffer=buffer, rng=rng())
    assert torch.equal(found.ids, gain.weight.argmax(1))
    assert found.gain == pytest.approx(gain.weight.amax(1).sum().item())
    assert found.steps == len(found.history) == 60
    assert (found.in_play, found.done) == (1, False)


def test_gcg_of_several_prompts_climbs_their_mean() -> None:
    gains = [linear(seed) for seed in range(3)]
    mean = torch.stack([gain.weight for gain in gains]).mean(0)
    found = gcg(gains, START, steps=60, candidates=64, top=6, rng=rng())
    assert torch.equal(found.ids, mean.argmax(1))
    assert found.in_play == 3
    assert found.gain == pytest.approx(mean.amax(1).sum().item())


def test_a_buffer_takes_back_a_step_that_brought_nothing() -> None:
    gain = linear(0)
    forgets, remembers = (
        gcg([gain], START, steps=40, candidates=4, top=12, buffer=buffer, rng=rng()) for buffer in (0, 8)
    )
    assert min(b - a for a, b in itertools.pairwise(forgets.history)) < 0
    assert remembers.gain >= max(remembers.history)
    assert forgets.gain == pytest.approx(max(*forgets.history, gain(START[None]).item()))


def test_with_a_buffer_the_search_goes_on_from_the_best_that_it_was_not_at_before() -> None:
    gain = linear(0)
    visited: list[tuple[int, ...]] = []

    class Watched(Linear):
        def slope(self, ids: Tensor, /) -> Tensor:
            visited.append(tuple(ids.tolist()))
            return self.weight

    watched = Watched(gain.weight)
    gcg([watched], START, steps=12, candidates=3, top=12, buffer=50, rng=rng())
    asked = [{tuple(ids) for ids in batch.tolist()} for batch in watched.asked[1:]]
    for k in range(1, len(visited)):
        rest = sorted(set().union(*asked[:k]) - set(visited[:k]))
        values = gain(torch.tensor(rest))
        assert visited[k] == rest[int(values.argmax())]


def test_prompts_are_added_one_by_one_and_the_search_ends_when_all_are_done() -> None:
    gains = [linear(seed) for seed in range(3)]
    target = 2.0
    said: list[int] = []

    def done(prompt: int, ids: Tensor) -> bool:
        said.append(prompt)
        return gains[prompt](ids[None]).item() > target

    found = gcg(gains, START, steps=200, candidates=64, top=12, done=done, rng=rng())
    assert found.done
    assert found.steps < 200
    assert all(gain(found.ids[None]).item() > target for gain in gains)
    assert said.index(1) > 0
    assert len(gains[2].asked) < len(gains[0].asked)
    at_once = gcg(gains, START, steps=200, candidates=64, top=12, done=done, progressive=False, rng=rng())
    assert at_once.in_play == 3


def test_a_start_that_is_done_takes_no_step() -> None:
    gain = linear(0)
    found = gcg([gain], START, done=lambda prompt, ids: True)
    assert (found.steps, found.done, found.history) == (0, True, ())
    assert torch.equal(found.ids, START)


def test_candidates_change_the_asked_places_only_to_promising_allowed_tokens() -> None:
    slope = torch.randn((S, V), generator=rng(3), dtype=torch.float64)
    allowed = torch.arange(V) % 2 == 0
    tried = propose(slope, START, candidates=200, top=3, replace=2, allowed=allowed, rng=rng())
    changed = tried != START
    assert set(changed.sum(1).tolist()) == {1, 2}
    assert len(torch.unique(tried, dim=0)) == len(tried)
    promising = slope.masked_fill(~allowed, -torch.inf).topk(3, dim=1).indices
    for i in range(S):
        assert set(tried[changed[:, i], i].tolist()) == set(promising[i].tolist()) - {0}


def test_what_another_tokenisation_would_change_is_never_asked_about() -> None:
    gain = linear(0)

    def keeps(ids: Tensor) -> Tensor:
        return ids[:, 0] != gain.weight[0].argmax()

    found = gcg([gain], START, steps=40, candidates=64, top=12, keeps=keeps, rng=rng())
    assert all(keeps(ids).all() for ids in gain.asked)
    expected = gain.weight.clone()
    expected[0, gain.weight[0].argmax()] = -torch.inf
    assert torch.equal(found.ids, expected.argmax(1))
    nothing = gcg([gain], START, steps=3, candidates=8, top=3, keeps=lambda ids: ids[:, 0] < 0, rng=rng())
    assert torch.equal(nothing.ids, START)
    assert nothing.steps == 3


def test_the_same_seed_gives_the_same_suffix() -> None:
    gain = linear(0)
    one, same = (gcg([gain], START, steps=5, candidates=8, rng=rng(7)) for _ in range(2))
    assert torch.equal(one.ids, same.ids)
    assert one.history == same.history


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (partial(gcg, [], START), "at least one gain"),
        (partial(gcg, start=START.float()), "int64 tensor of shape \\[S\\]"),
        (partial(gcg, start=START[None]), "int64 tensor of shape \\[S\\]"),
        (partial(gcg, start=START, replace=S + 1), "'replace' parameter must be an int in the range \\[1, 5\\]"),
        (partial(gcg, start=START, buffer=-1), "'buffer' parameter"),
        (partial(gcg, start=START, steps=0), "'steps' parameter"),
        (partial(gcg, start=START, allowed=torch.arange(V) > 0), "must hold allowed tokens only. Got token 0"),
    ],
)
def test_bad_arguments_of_gcg_are_named(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call() if call.args else call([linear(0)])

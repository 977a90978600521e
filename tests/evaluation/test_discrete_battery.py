"""A battery of discrete attacks believes nobody; its checks find what each is there to find."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks.greedy import greedy
from sparring.attacks.random_edits import random_edits
from sparring.evaluation import discrete
from sparring.evaluation.discrete import Battery, DiscreteChallenge, Outcome, battery

N, LENGTH = 12, 4
X = [(i % 3,) * LENGTH for i in range(N)]
Words = tuple[int, ...]


@dataclass(frozen=True)
class Raises:
    """Each word may be raised by one, at most `budget` of them."""

    budget: int

    def sites(self, x: Words) -> Sequence[int]:
        return range(len(x))

    def edits(self, z: Words, x: Words, site: int) -> list[Words]:
        if z[site] > x[site]:
            return [(*z[:site], x[site], *z[site + 1 :])]
        return [(*z[:site], z[site] + 1, *z[site + 1 :])] if sum(z) - sum(x) < self.budget else []

    def without(self, z: Words, site: int) -> Words:
        return (*z[:site], 0, *z[site + 1 :])

    def contains(self, z: Words, x: Words) -> bool:
        rises = [a - b for a, b in zip(z, x, strict=True)]
        return set(rises) <= {0, 1} and sum(rises) <= self.budget

    def changes(self, z: Words, x: Words) -> int:
        return sum(a != b for a, b in zip(z, x, strict=True))

    def describe(self) -> dict[str, Any]:
        return {"name": "raises"}


class Total:
    """The sum of the words, lost above its row's threshold."""

    def __init__(self, thresholds: Tensor) -> None:
        self.thresholds = thresholds

    def __call__(self, z: Sequence[Words], rows: Sequence[int], /) -> Tensor:
        return self.judge(z, rows)[0]

    def judge(self, z: Sequence[Words], rows: Sequence[int], /) -> tuple[Tensor, Tensor]:
        value = torch.tensor([float(sum(each)) for each in z])
        return value, value > self.thresholds[torch.tensor(list(rows), dtype=torch.long)]


GAIN = Total(torch.arange(N) % 3 * 4 + torch.tensor([-1.0, 0.5, 1.5, 9.0]).repeat(3))  # lost, one raise, two, never
CHALLENGES: list[DiscreteChallenge[Words]] = [
    DiscreteChallenge("one", greedy, Raises(1)),
    DiscreteChallenge("two", greedy, Raises(2)),
    DiscreteChallenge("random", partial(random_edits, queries=5), Raises(2)),
]


def test_outcomes_are_what_each_budget_allows() -> None:
    found = battery(GAIN, X, CHALLENGES, seed=0)
    kinds = torch.arange(N) % 4
    assert torch.equal(found.clean, kinds != 0)
    assert torch.equal(found.outcomes["one"].right, kinds > 1)
    assert torch.equal(found.outcomes["two"].right, kinds > 2)
    assert torch.equal(found.outcomes["two"].changes, torch.tensor([0, 1, 2, 2]).repeat(3))
    assert found.success("one") == pytest.approx(1 / 3)
    assert found.success() == found.success("two") == pytest.approx(2 / 3)


def test_the_worst_case_stands_nowhere_that_an_attack_won() -> None:
    found = battery(GAIN, X, CHALLENGES, seed=0)
    for outcome in found.outcomes.values():
        assert not (found.worst & ~outcome.right).any()
    assert not (found.worst & ~found.clean).any()


def test_queries_are_what_an_attack_asked_and_lost_examples_cost_none() -> None:
    found = battery(GAIN, X, CHALLENGES, seed=0)
    assert found.outcomes["random"].queries[found.clean].tolist() == [5] * 9
    assert found.outcomes["random"].queries[~found.clean].tolist() == [0] * 3
    one = found.outcomes["one"]  # the original, four deletions, one edit; then the budget is used up
    assert one.queries[[1, 5]].tolist() == [6] * 2
    assert one.queries[9].item() == 2  # deletions from a text of zeros are that text, which is known


def test_nothing_depends_on_the_batch_size() -> None:
    whole, parts = (battery(GAIN, X, CHALLENGES, seed=3, batch_size=size) for size in (256, 2))
    for name, outcome in whole.outcomes.items():
        assert outcome.z == parts.outcomes[name].z
        assert torch.equal(outcome.queries, parts.outcomes[name].queries)


def test_batteries_of_parts_join_to_the_battery_of_the_whole() -> None:
    whole = battery(GAIN, X, CHALLENGES, seed=3)
    halves = [battery(Total(GAIN.thresholds[i : i + 6]), X[i : i + 6], CHALLENGES, seed=3) for i in (0, 6)]
    found = discrete.joined(halves)
    assert torch.equal(found.clean, whole.clean)
    assert torch.equal(found.worst, whole.worst)
    for name, outcome in whole.outcomes.items():
        assert found.outcomes[name].z == outcome.z
        assert torch.equal(found.outcomes[name].queries, outcome.queries)
        assert torch.equal(found.outcomes[name].value, outcome.value)


def cheat(gain: Any, x: Sequence[Words], threat: Any, *, rng: Any = None) -> list[Words]:
    """Raises everything, whatever is allowed."""
    return [tuple(w + 1 for w in each) for each in x]


def test_an_attack_that_cheats_is_refused_and_gets_nothing() -> None:
    found = battery(GAIN, X, [DiscreteChallenge("cheat", cheat, Raises(2))], seed=0)
    outcome = found.outcomes["cheat"]
    assert outcome.z == X
    assert torch.equal(outcome.right, found.clean)
    assert torch.equal(outcome.refused, found.clean)
    assert discrete.verified(found)["verdict"] == "fail"
    assert discrete.verified(battery(GAIN, X, CHALLENGES, seed=0))["verdict"] == "pass"


def lower(gain: Any, x: Sequence[Words], threat: Any, *, rng: Any = None) -> list[Words]:
    return [(0, *each[1:]) for each in x]


class Anything(Raises):
    def contains(self, z: Words, x: Words) -> bool:
        return True


def test_an_answer_worth_less_than_its_original_is_a_finding() -> None:
    found = battery(GAIN, X, [DiscreteChallenge("lower", lower, Anything(2))], seed=0)
    assert discrete.never_falls(found)["verdict"] == "fail"
    assert discrete.never_falls(battery(GAIN, X, CHALLENGES, seed=0))["verdict"] == "pass"


def test_a_wide_threat_has_to_take_everything() -> None:
    challenges = [DiscreteChallenge("wide", greedy, Raises(LENGTH)), DiscreteChallenge("narrow", greedy, Raises(1))]
    found = battery(Total(torch.full((N,), 11.5)), [(2,) * LENGTH] * N, challenges, seed=0)
    assert discrete.wide_breaks(found, "wide")["verdict"] == "pass"
    assert discrete.wide_breaks(found, "narrow")["verdict"] == "fail"


def test_caches_that_disagree_are_a_finding() -> None:
    outcome = battery(GAIN, X, CHALLENGES, seed=0).outcomes["two"]
    assert discrete.caches_agree(outcome, outcome)["verdict"] == "pass"
    shifted = Outcome(**{**outcome.__dict__, "value": outcome.value + 0.01})
    other = Outcome(**{**outcome.__dict__, "z": [X[0], *outcome.z[1:-1], X[0]]})
    assert discrete.caches_agree(outcome, shifted)["verdict"] == "fail"
    assert discrete.caches_agree(outcome, other)["verdict"] == "fail"


def test_a_model_left_in_train_mode_is_a_finding() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()
    with discrete.watched(model) as seen:
        model(torch.zeros(1, 2))
    assert discrete.eval_mode(seen)["verdict"] == "pass"
    model[1].train()
    with discrete.watched(model) as seen:
        model(torch.zeros(1, 2))
        model.eval()(torch.zeros(1, 2))
    assert seen == ["1"]
    assert discrete.eval_mode(seen)["verdict"] == "fail"
    model.train()(torch.zeros(1, 2))
    assert seen == ["1"]  # nobody looks any more


def test_attacks_that_take_nothing_from_a_plain_model_are_a_finding() -> None:
    assert discrete.undefended_falls(battery(GAIN, X, CHALLENGES, seed=0))["verdict"] == "pass"
    firm = Total(torch.full((N,), 100.0))
    assert discrete.undefended_falls(battery(firm, X, CHALLENGES, seed=0))["verdict"] == "fail"
    nothing: Battery[Words] = battery(Total(torch.full((N,), -1.0)), X, CHALLENGES, seed=0)
    assert discrete.undefended_falls(nothing)["verdict"] == "fail"


@pytest.mark.parametrize("challenges", [[], [CHALLENGES[0], CHALLENGES[0]]])
def test_challenges_have_names_of_their_own(challenges: list[DiscreteChallenge[Words]]) -> None:
    with pytest.raises(ValueError, match="different names, at least one"):
        battery(GAIN, X, challenges, seed=0)

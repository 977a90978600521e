"""The searches over texts against exhaustive search, on spaces small enough to enumerate."""

from functools import partial
from typing import Any

import pytest
import torch
from wordplay import SlopedSum, Sum, Swaps, Words, best, table

from sparring.attacks.genetic import genetic
from sparring.attacks.greedy import RANKINGS, Ranking, greedy
from sparring.attacks.hotflip import hotflip
from sparring.attacks.paraphrase import paraphrase
from sparring.attacks.random_edits import random_edits

N, LENGTH, VOCABULARY = 6, 5, 4
X: list[Words] = [(0,) * LENGTH for _ in range(N)]


def everything_but(x: Words) -> list[Words]:
    """Paraphrases of one word or two, some of which no budget below two allows."""
    return [(1, *x[1:]), (*x[:-1], 2), (1, *x[1:-1], 2)]


ATTACKS: list[tuple[str, Any]] = [
    *((f"greedy-{ranking}", partial(greedy, ranking=ranking)) for ranking in RANKINGS),
    ("genetic", partial(genetic, population=6, generations=4)),
    ("hotflip", hotflip),
    ("random", partial(random_edits, queries=60)),
    ("paraphrase", partial(paraphrase, rewrite=everything_but, rounds=2)),
]
each_attack = pytest.mark.parametrize("attack", [a for _, a in ATTACKS], ids=[name for name, _ in ATTACKS])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("ranking", RANKINGS)
def test_greedy_finds_the_optimum_of_a_separable_gain(ranking: Ranking) -> None:
    threat, gain = Swaps(VOCABULARY, budget=LENGTH), SlopedSum(table(N, LENGTH, VOCABULARY))
    z = greedy(gain, X, threat, ranking=ranking)
    for row in range(N):
        assert gain.value(z[row], row) == pytest.approx(best(gain, X[row], row, threat))


def test_greedy_by_gain_is_exact_within_a_budget_too() -> None:
    threat, gain = Swaps(VOCABULARY, budget=2), Sum(table(N, LENGTH, VOCABULARY, seed=1))
    z = greedy(gain, X, threat, ranking="gain")
    for row in range(N):
        assert gain.value(z[row], row) == pytest.approx(best(gain, X[row], row, threat))


def test_hotflip_is_exact_where_the_gradient_is() -> None:
    threat, gain = Swaps(VOCABULARY, budget=2), SlopedSum(table(N, LENGTH, VOCABULARY, seed=1))
    z = hotflip(gain, X, threat, beam=2)
    for row in range(N):
        assert gain.value(z[row], row) == pytest.approx(best(gain, X[row], row, threat))


@pytest.mark.parametrize(("ranking", "first"), [("deletion", 2), ("gain", 3), ("saliency", 3), ("gradient", 1)])
def test_rankings_differ_in_which_word_goes_first(ranking: Ranking, first: int) -> None:
    """With room for one change, the place that is ranked first is the one that is changed."""
    values = torch.zeros(1, LENGTH, VOCABULARY, dtype=torch.float64)
    values[0, :, 1] = torch.tensor([0.1, 0.2, 0.3, 2.0, 0.1])  # the best edit stands at 3
    values[0, 2, 0] = -0.9  # without the word at 2 the gain rises most ...
    values[0, 3, 0] = -0.5  # ... then at 3
    values[0, 2, 1] = -0.8
    values[0, 1, 3] = -5.0  # the steepest place is 1
    z = greedy(SlopedSum(values), X[:1], Swaps(VOCABULARY, budget=1), ranking=ranking)
    assert [i for i in range(LENGTH) if z[0][i] != 0] == [first]


def trap() -> Sum:
    """Each change costs one, two changes together bring three: no single step goes up."""
    values = torch.zeros(N, LENGTH, VOCABULARY, dtype=torch.float64)
    values[:, :, 1:] = -1.0
    pairs = torch.zeros(N, LENGTH, LENGTH, dtype=torch.float64)
    pairs[:, 1, 3] = 3.0
    return Sum(values, pairs=pairs)


def test_a_population_escapes_a_trap_that_stops_a_greedy_search() -> None:
    threat, gain = Swaps(VOCABULARY, budget=2), trap()
    assert greedy(gain, X, threat) == X
    z = genetic(gain, X[:2], threat, population=20, generations=10, rng=rng())
    assert [gain.value(each, row) for row, each in enumerate(z)] == [1.0] * 2 == [best(gain, X[0], 0, threat)] * 2


def test_crossing_goes_further_in_a_generation_than_mutation() -> None:
    """Each change brings one. The first members have one change, and mutation makes one more in each: three changes
    after one generation were in two parents."""
    values = torch.zeros(1, LENGTH, VOCABULARY, dtype=torch.float64)
    values[:, :, 1] = 1.0
    threat = Swaps(VOCABULARY, budget=LENGTH)
    z = genetic(Sum(values), X[:1], threat, population=20, generations=1, rng=rng())
    assert threat.changes(z[0], X[0]) == 3


def test_no_child_that_is_not_allowed_is_asked_about() -> None:
    threat, gain = Swaps(VOCABULARY, budget=2), Sum(table(2, LENGTH, VOCABULARY))
    genetic(gain, X[:2], threat, population=20, generations=4, rng=rng())
    assert all(threat.contains(z, X[row]) for row, z in gain.asked)


@each_attack
@pytest.mark.parametrize("queries", [1, 2, 7, 23])
def test_a_budget_is_kept_exactly(attack: Any, queries: int) -> None:
    gain = SlopedSum(table(N, LENGTH, VOCABULARY))
    free = SlopedSum(table(N, LENGTH, VOCABULARY))
    attack(gain, X, Swaps(VOCABULARY, budget=3), queries=queries, rng=rng())
    attack(free, X, Swaps(VOCABULARY, budget=3), queries=500, rng=rng())
    spent, wanted = ([g.queries(row) + g.gradients // N for row in range(N)] for g in (gain, free))
    assert max(spent) <= queries
    if attack is not hotflip:  # which needs a gradient at every text of its beam, or has no next step
        assert spent == [min(queries, each) for each in wanted]


@each_attack
def test_answers_are_allowed_never_lower_and_repeatable(attack: Any) -> None:
    threat = Swaps(VOCABULARY, budget=2)
    gain = SlopedSum(table(N, LENGTH, VOCABULARY, seed=3), threshold=2.5)
    z = attack(gain, X, threat, rng=rng(5))
    assert attack(gain, X, threat, rng=rng(5)) == z
    for row in range(N):
        assert threat.contains(z[row], X[row])
        assert gain.value(z[row], row) >= gain.value(X[row], row)


@each_attack
def test_an_answer_does_not_depend_on_who_is_beside_it(attack: Any) -> None:
    threat = Swaps(VOCABULARY, budget=2)
    values = table(N, LENGTH, VOCABULARY, seed=3)
    together = attack(SlopedSum(values, threshold=2.5), X, threat, rng=rng(5))
    alone = [attack(SlopedSum(values[i : i + 1], threshold=2.5), X[:1], threat, rng=rng(5))[0] for i in range(N)]
    assert together == alone


@each_attack
def test_what_is_lost_already_is_returned_as_it_is_after_one_query(attack: Any) -> None:
    gain = SlopedSum(table(N, LENGTH, VOCABULARY), threshold=-100.0)
    assert attack(gain, X, Swaps(VOCABULARY, budget=2), rng=rng()) == X
    assert gain.calls == [N]
    assert gain.gradients == 0


@each_attack
def test_nothing_to_do_is_no_error(attack: Any) -> None:
    assert attack(SlopedSum(table(1, 1, 1)), [], Swaps(VOCABULARY, budget=2), rng=rng()) == []
    gain = SlopedSum(table(2, LENGTH, VOCABULARY))
    assert attack(gain, X[:2], Swaps(1, budget=0), rng=rng()) == X[:2]


def test_a_step_of_all_standing_examples_is_one_call_and_finished_ones_drop_out() -> None:
    values = torch.zeros(2, LENGTH, VOCABULARY, dtype=torch.float64)
    values[0, 0, 1] = 5.0  # the first example flips at the first place
    values[:, :, 2] = 0.1
    gain = Sum(values, threshold=4.0)
    z = greedy(gain, X[:2], Swaps(VOCABULARY, budget=LENGTH))
    assert z == [(1, 0, 0, 0, 0), (2,) * LENGTH]
    assert gain.calls == [2, 2 * LENGTH, 2 * (VOCABULARY - 1), *[VOCABULARY - 1] * (LENGTH - 1)]


def test_of_several_flips_in_one_step_the_fewest_changes_win() -> None:
    values = torch.zeros(1, LENGTH, VOCABULARY, dtype=torch.float64)
    values[0, 0, 1], values[0, 4, 2] = 2.0, 2.5
    z = paraphrase(Sum(values, threshold=1.5), X[:1], Swaps(VOCABULARY, budget=2), rewrite=everything_but)
    assert z == [(0, 0, 0, 0, 2)]  # the text with both changes is the highest, this one the higher of the others


def test_a_paraphrase_that_is_not_allowed_is_not_asked_about() -> None:
    values = torch.zeros(1, LENGTH, VOCABULARY, dtype=torch.float64)
    values[0, 0, 1] = values[0, 4, 2] = 1.0
    gain = Sum(values)
    z = paraphrase(gain, X[:1], Swaps(VOCABULARY, budget=1), rewrite=everything_but, rounds=3)
    assert z == [(1, 0, 0, 0, 0)]
    assert (0, (1, 0, 0, 0, 2)) not in gain.asked


def test_random_edits_find_less_than_a_search_with_as_many_queries() -> None:
    values = table(40, 8, 6, seed=2)
    threat, x = Swaps(6, budget=8), [(0,) * 8] * 40
    searched, drawn = Sum(values), Sum(values)
    found = greedy(searched, x, threat)
    other = random_edits(drawn, x, threat, queries=searched.queries(0), rng=rng())
    assert all(searched.value(z, i) >= searched.value(u, i) for i, (z, u) in enumerate(zip(found, other, strict=True)))
    assert drawn.queries(0) == searched.queries(0)


def test_random_edits_end_when_there_is_nothing_new() -> None:
    gain = Sum(table(1, 2, 3))
    z = random_edits(gain, [(0, 0)], Swaps(3, budget=2), queries=10_000, rng=rng())
    assert len(gain.asked) == 9
    assert gain.value(z[0], 0) == best(gain, (0, 0), 0, Swaps(3, budget=2))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (partial(greedy, ranking="alphabet"), "'ranking' parameter must be one of deletion"),
        (partial(greedy, queries=0), "'queries' parameter must be an int in the range"),
        (partial(genetic, population=1), "'population' parameter must be an int in the range \\[2"),
        (partial(genetic, temperature=0.0), "'temperature' parameter must be a number"),
        (partial(hotflip, beam=0), "'beam' parameter must be an int"),
        (partial(random_edits, at_once=0), "'at_once' parameter must be an int"),
        (partial(paraphrase, rewrite=everything_but, rounds=0), "'rounds' parameter must be an int"),
    ],
)
def test_bad_arguments_are_named(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call(SlopedSum(table(N, LENGTH, VOCABULARY)), X, Swaps(VOCABULARY, budget=2))


def test_gains_and_threats_without_what_a_search_needs_are_refused() -> None:
    gain, threat = Sum(table(N, LENGTH, VOCABULARY)), Swaps(VOCABULARY, budget=2)
    for attack in (partial(greedy, ranking="gradient"), hotflip):
        with pytest.raises(TypeError, match="needs a gain with 'slopes' and 'estimates'"):
            attack(gain, X, threat)

    class Plain:
        sites, edits, without = threat.sites, threat.edits, threat.without
        contains, changes, describe = threat.contains, threat.changes, threat.describe

    with pytest.raises(TypeError, match=r"'graft'\. Got Plain"):
        genetic(gain, X, Plain())

"""The search without gradients: it finds optima that are known, with no more queries than it was given."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from made_flows import rows as made_rows
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

from sparring.core.compose import Masked, OfClass
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import margin
from sparring.core.pgd import pgd
from sparring.core.standing import DeadStartError
from sparring.core.threat import L1, L2, Linf, for_classes
from sparring.domains.flow.feasible import Feasible
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.schema import Field, Schema
from sparring.domains.flow.search import Evasion, movable, search
from sparring.domains.flow.table import Table


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SCHEMA = Schema(
    "hand",
    (
        Field("proto", "category"),
        Field("count", "integer", "free", high=40.0),
        Field("sent", "integer", "up", high=100.0),
        Field("pause", "real", "down", high=8.0),
        Field("share", "rate", "free", high=1.0, step=0.05),
        Field("received", "integer", high=20.0),
    ),
)
LOW, HIGH = (0.0, 0.0, 0.0, 0.0, 0.0), (40.0, 100.0, 8.0, 1.0, 20.0)
FITTED = Preprocessing(SCHEMA, LOW, HIGH, (("tcp", "udp"),))
SPAN = torch.tensor(HIGH, dtype=torch.float64)
EPS = 0.3


def hand(n: int) -> Tensor:
    """Rows away from the ends of the columns, float64 `[n, 7]`."""
    chance = np.random.default_rng(3)
    columns: dict[str, Any] = {
        "proto": chance.choice(np.array(["tcp", "udp"], dtype=object), n),
        "count": chance.integers(15, 25, n).astype(float),
        "sent": chance.integers(20, 60, n).astype(float),
        "pause": chance.uniform(3.0, 7.0, n),
        "share": chance.integers(8, 12, n) / 20,
        "received": chance.integers(1, 19, n).astype(float),
    }
    return FITTED.encode(Table(SCHEMA, columns, np.full(n, "bad", dtype=object)), torch.float64)


WANTED = torch.tensor([29.0, 44.0, -5.0, 0.3, 3.0], dtype=torch.float64)
PULL = torch.tensor([1.0, 0.1, 0.7, 20.0, 5.0], dtype=torch.float64)


def separable(z: Tensor) -> Tensor:
    """Each field is pulled to a value of its own, float64 `[B]`."""
    return -((z[:, :5] * SPAN - WANTED).abs() * PULL).sum(1)


def optimum(x: Tensor) -> Tensor:
    """The highest value that the schema allows, coordinate by coordinate."""
    raw, reach = x[:, :5] * SPAN, EPS * SPAN + 1e-9
    low, high = (raw - reach).maximum(torch.zeros(5)), (raw + reach).minimum(SPAN)
    low[:, 1], high[:, 2] = raw[:, 1], raw[:, 2]  # sent only rises, pause only falls
    low[:, 4], high[:, 4] = raw[:, 4], raw[:, 4]
    steps = torch.tensor([1.0, 1.0, 0.0, 0.05, 1.0], dtype=torch.float64)
    total = torch.zeros(len(x), dtype=torch.float64)
    for k, step in enumerate(steps.tolist()):
        for b in range(len(x)):
            grid = torch.arange(0.0, HIGH[k] + 1e-9, step or 1.0, dtype=torch.float64)
            grid = grid if step else torch.stack([low[b, k], high[b, k]])  # linear between, its target being outside
            grid = torch.cat([grid[(grid >= low[b, k] - 1e-9) & (grid <= high[b, k] + 1e-9)], raw[b, k, None]])
            total[b] += (-(grid - WANTED[k]).abs() * PULL[k]).max()
    return total


def sampled(x: Tensor, threat: Feasible, queries: int) -> Tensor:
    """What random search finds."""
    rng = seeded(7)
    return torch.stack([separable(threat.sample(x, rng)) for _ in range(queries)]).amax(0)


def test_finds_the_optimum_of_a_separable_gain_and_random_search_does_not() -> None:
    x, threat = hand(12), Feasible(FITTED, EPS)
    z = search(separable, x, threat, queries=1200, rng=seeded())
    assert threat.contains(z, x).all()
    best = optimum(x)
    assert (separable(x) < best - 1).all()
    torch.testing.assert_close(separable(z), best, rtol=0, atol=1e-6)
    assert (sampled(x, threat, 1200) < best - 0.3).all()


def test_beats_random_search_for_every_row_on_flows_with_relations() -> None:
    table = made_rows(0, 60)
    fitted = Preprocessing.fit(table)
    x = fitted.encode(table)[2:14]
    threat = Feasible(fitted, 0.2)
    weight = torch.randn(fitted.width, generator=seeded(1))

    def gain(z: Tensor) -> Tensor:
        return torch.tanh(3 * (z - 0.5)) @ weight

    z = search(gain, x, threat, queries=200, rng=seeded())
    assert threat.contains(z, x).all()
    rng = seeded(7)
    other = torch.stack([gain(threat.sample(x, rng)) for _ in range(200)]).amax(0)
    assert (gain(z) > other + 0.01).all()


@dataclass
class Asked:
    """A gain that cannot judge and keeps all it was asked."""

    points: list[Tensor] = field(default_factory=list)

    def __call__(self, z: Tensor, /) -> Tensor:
        self.points.append(z.clone())
        return separable(z)


@dataclass
class Judging(Asked):
    """One that can: rows above its bar are lost. It is narrowed by row numbers, and counts the queries of each."""

    bar: float = torch.inf
    counts: Tensor = field(default_factory=lambda: torch.zeros(12, dtype=torch.long))
    rows: Tensor = field(default_factory=lambda: torch.arange(12))

    def judge(self, z: Tensor, /) -> tuple[Tensor, Tensor]:
        value = self(z)
        self.counts.index_add_(0, self.rows, torch.ones_like(self.rows))
        return value, value > self.bar

    def take(self, rows: Tensor, /) -> "Judging":
        return Judging(self.points, self.bar, self.counts, self.rows[rows])


@pytest.mark.parametrize("queries", [0, 1, 2, 20, 21, 73])
def test_every_row_costs_exactly_the_queries_given_and_every_one_is_feasible(queries: int) -> None:
    x, threat = hand(12), Feasible(FITTED, EPS)
    plain, judge = Asked(), Judging()
    z = search(plain, x, threat, queries=queries, population=10, rng=seeded())
    used = queries if queries > 1 else 0  # with one, it would go to x, which is the answer anyway
    assert len(plain.points) == used
    assert all(threat.contains(each, x).all() for each in plain.points)
    assert torch.equal(search(judge, x, threat, queries=queries, population=10, rng=seeded()), z)
    assert (judge.counts == used).all()
    if queries <= 1:
        assert torch.equal(z, x)
    else:
        assert torch.equal(separable(z), torch.stack([separable(each) for each in plain.points]).amax(0))


def test_a_lost_row_leaves_with_what_lost_it_and_costs_nothing_more() -> None:
    x, threat = hand(12), Feasible(FITTED, EPS)
    start, best = separable(x), optimum(x)
    gain = Judging(bar=float(start.max()) - 1e-9)
    z = search(gain, x, threat, queries=400, population=8, rng=seeded())
    lost = separable(z) > gain.bar
    assert gain.counts[start.argmax()] == 1
    assert torch.equal(z[start.argmax()], x[start.argmax()])
    assert torch.equal(lost, best > gain.bar)  # the easy ones all fall, those for whom it cannot be done do not
    assert 0 < (~lost).sum() < 12
    assert (gain.counts[~lost] == 400).all()
    assert (gain.counts[lost] < 400).all()
    assert ((gain.counts - 1) % 8 == 0)[lost].all()


def test_same_rng_same_answer_and_an_example_does_not_see_its_neighbours() -> None:
    x, threat = hand(12), Feasible(FITTED, EPS)
    z = search(separable, x, threat, queries=90, rng=seeded(2))
    assert torch.equal(search(separable, x, threat, queries=90, rng=seeded(2)), z)
    assert not torch.equal(search(separable, x, threat, queries=90, rng=seeded(3)), z)
    torch.testing.assert_close(search(separable, x[4:6], threat, queries=90, rng=seeded(2)), z[4:6], rtol=0, atol=0)


@pytest.mark.parametrize("threat", [Feasible(FITTED, EPS), Masked(Linf(0.3), torch.tensor([[0.0, 0, 0, 0, 0, 1, 1]]))])
def test_queries_do_not_go_to_what_may_not_change_nor_back_to_a_parent(threat: Feasible | Masked) -> None:
    x, points = 0.9 * hand(12) if isinstance(threat, Masked) else hand(12), list[Tensor]()

    def away(z: Tensor) -> Tensor:
        """x is the best there is, so that it is a parent again and again."""
        points.append(z)
        return -(z - x).abs().sum(1)

    assert torch.equal(search(away, x, threat, queries=300, rng=seeded()), x)
    again = torch.stack([(z == x).all(1) for z in points[1:]]).double().mean()
    assert again < 0.06


@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.3), L1(0.4), Masked(Linf(0.2), torch.eye(4)[:1])])
def test_serves_the_other_threats_of_the_library(threat: Linf | L2 | L1 | Masked) -> None:
    x = 0.3 + 0.4 * torch.rand(5, 4, generator=seeded(1))
    weight = torch.tensor([1.0, -2.0, 0.5, 0.1])
    z = search(lambda z: z @ weight, x, threat, queries=600, rng=seeded())
    best = {Linf: 0.2 * 3.6, L2: 0.3 * weight.norm().item(), L1: 0.4 * 2, Masked: 0.2}[type(threat)]
    assert threat.contains(z, x).all()
    assert ((z - x) @ weight > 0.97 * best).all()


def test_rows_of_another_class_stay_and_what_may_move_is_known() -> None:
    x, y = hand(6), torch.tensor([1, 0, 1, 0, 0, 1])
    threat = for_classes(OfClass(Feasible(FITTED, EPS), 1), y)
    assert movable(threat, x).tolist() == [[bool(label) and k < 4 for k in range(7)] for label in y]
    z = search(separable, x, threat, queries=60, rng=seeded())
    assert torch.equal((z != x).any(1), y == 1)
    leaving = Judging(bar=float(separable(x)[0]) - 1e-9, rows=torch.arange(6))  # the first row is lost as it is
    assert not leaving.judge(x)[1].all()
    z = search(leaving, x, threat, queries=60, rng=seeded())
    assert torch.equal(z[y == 0], x[y == 0])
    assert movable(L1(0.1), x).all()


def test_it_evades_a_tree_whose_gradient_is_zero_everywhere() -> None:
    chance = np.random.default_rng(0)
    data = chance.uniform(0, 1, (2000, 3))
    bad = (data[:, 0] > 0.5) != (data[:, 1] > 0.5)  # no single direction is away from the malicious rows
    tree = DecisionTreeClassifier(random_state=0, max_depth=8).fit(data, bad)
    x = torch.from_numpy(data[bad & (np.abs(data[:, :2] - 0.5).min(1) < 0.15)])[:40]
    gain = Evasion(lambda z: torch.from_numpy(tree.predict_proba(z.detach().numpy())[:, 1]) + 0 * z.sum(1))
    _, lost = gain.judge(x)
    assert not lost.any()
    with pytest.raises(DeadStartError):
        pgd(gain, x, Linf(0.2), rng=seeded())
    z = search(gain, x, Linf(0.2), queries=200, rng=seeded())
    assert (tree.predict(z.numpy()) == 0).all()
    assert Linf(0.2).contains(z, x).all()


def test_a_score_at_the_threshold_is_an_alarm_and_nan_is_no_record() -> None:
    score = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)
    value, lost = Evasion(lambda z: score, 0.5).judge(torch.zeros(3, 1))
    assert lost.tolist() == [True, False, False]
    torch.testing.assert_close(value, torch.tensor([0.1, 0.0, -0.1], dtype=torch.float64))
    x = torch.full((1, 2), 0.5)
    z = search(lambda z: torch.where(z[:, 0] > 0.5, torch.nan, z[:, 1]), x, Linf(0.1), queries=60, rng=seeded())
    assert z[0, 0] <= 0.5
    assert z[0, 1] == 0.6


def test_a_classifier_of_the_library_can_be_searched() -> None:
    model = torch.nn.Linear(4, 2, bias=False).requires_grad_(False)
    model.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [1, -1, 0, 0]]))
    x = torch.tensor([[0.6, 0.4, 0.5, 0.5], [0.9, 0.1, 0.5, 0.5]])
    gain = ClassifierGain(model, torch.tensor([1, 1]), margin)
    z = search(gain, x, Linf(0.15), queries=100, rng=seeded())
    assert (model(z).argmax(1) == torch.tensor([0, 1])).all()
    assert search(gain, x[:0], Linf(0.15), rng=seeded()).shape == (0, 4)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ({"queries": -1}, r"'queries' parameter must be an int in the range \[0, inf\). Got -1"),
        ({"queries": True}, "Got True"),
        ({"population": 1}, r"'population' parameter must be an int in the range \[2, inf\). Got 1"),
    ],
)
def test_wrong_parameters_are_named(argument: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        search(separable, torch.zeros(1, 7), Linf(0.1), **argument)


def test_only_rows_of_numbers_can_be_searched() -> None:
    with pytest.raises(ValueError, match=r"must be a matrix \[B, d\]. Got shape \(1, 2, 3\)"):
        search(separable, torch.zeros(1, 2, 3), Linf(0.1))
    with pytest.raises(TypeError, match="floating-point"):
        search(separable, torch.zeros(1, 7, dtype=torch.long), Linf(0.1))

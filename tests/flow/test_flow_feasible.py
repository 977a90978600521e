"""The feasible flows: every answer is one whatever was asked, and where an answer is known it is that one."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_flows import SCHEMA, broken, edited, rows
from torch import Tensor, nn

from sparring.attacks.apgd import apgd
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import cross_entropy
from sparring.core.pgd import pgd
from sparring.domains.flow.feasible import Feasible, unconstrained
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.relation_text import RelationError
from sparring.domains.flow.schema import Field, Schema
from sparring.domains.flow.table import Table

TABLE = rows(0, 400)
FITTED = Preprocessing.fit(TABLE)
N = len(FITTED.numeric)
PLACE = {name: k for k, name in enumerate(FITTED.names)}
SEEDS = st.integers(0, 10_000)
EPS = st.sampled_from([0.01, 0.05, 0.1, 0.3, 1.0])
FAR = st.sampled_from([0.02, 0.3, 5.0])
DTYPES = st.sampled_from([torch.float32, torch.float64])


def some(seed: int, count: int = 40) -> Table:
    return TABLE.take(np.random.default_rng(seed).integers(0, len(TABLE), count))


def away(x: Tensor, seed: int, far: float) -> Tensor:
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x + far * (2 * noise - 1)).to(x.dtype)


def asked(x: Tensor, fitted: Preprocessing = FITTED, **values: float) -> Tensor:
    """x with these fields at these raw values."""
    z, place = x.clone(), {field.name: k for k, field in enumerate(fitted.numeric)}
    for name, value in values.items():
        raw = fitted.decode(x.double())
        raw[:, place[name]] = value
        z[:, place[name]] = fitted.scale.encode(raw)[:, place[name]].to(x.dtype)
    return z


def became(eps: float, table: Table, fitted: Preprocessing = FITTED, **values: float) -> dict[str, float]:
    """What asking for these raw values makes of the first row: the fields that changed."""
    x = fitted.encode(table)
    threat = Feasible(fitted, eps)
    z = threat.project(asked(x, fitted, **values), x)
    assert threat.contains(z, x).all()
    changed = fitted.to_table(z, table)
    return {name: c[0] for name, c in changed.columns.items() if c[0] != table.columns[name][0]}


@given(SEEDS, EPS, FAR, DTYPES)
def test_every_answer_is_feasible_whatever_was_asked(seed: int, eps: float, far: float, dtype: torch.dtype) -> None:
    table = some(seed)
    x = FITTED.encode(table, dtype)
    threat = Feasible(FITTED, eps)
    z = threat.project(away(x, seed, far), x)
    assert threat.contains(z, x).all()
    changed = FITTED.to_table(z, table)
    assert not {name: each.sum() for name, each in broken(changed).items() if each.any()}
    rounding = 2e-7 if dtype == torch.float32 else 1e-15
    assert ((z - x).abs() <= eps * (1 + 1e-6) + rounding).all()
    assert torch.equal(z[:, N:], x[:, N:])
    for field in FITTED.numeric:
        before, now = table.columns[field.name], changed.columns[field.name]
        k, moved = PLACE[field.name], now != before
        assert ((z[:, k] != x[:, k]).numpy() == moved).all()
        assert field.change != "fixed" or not moved.any()
        assert field.change != "up" or (now >= before).all()
        assert field.change != "down" or (now <= before).all()
        assert ((now >= field.low) & (now <= field.high)).all()
        if field.kind == "integer":
            assert (now == np.round(now)).all()
        if field.kind == "rate":
            assert (now == np.round(now * 100) / 100).all()


@given(SEEDS, EPS, FAR, DTYPES)
def test_a_feasible_row_is_its_own_projection(seed: int, eps: float, far: float, dtype: torch.dtype) -> None:
    x = FITTED.encode(some(seed), dtype)
    threat = Feasible(FITTED, eps)
    z = threat.project(away(x, seed, far), x)
    assert torch.equal(threat.project(z, x), z)
    assert torch.equal(threat.project(x, x), x)
    assert threat.contains(x, x).all()


@given(SEEDS, EPS, FAR)
def test_what_is_feasible_is_feasible_at_every_larger_radius(seed: int, eps: float, far: float) -> None:
    x = FITTED.encode(some(seed))
    z = Feasible(FITTED, eps).project(away(x, seed, far), x)
    larger = Feasible(FITTED, 1.7 * eps)
    assert larger.contains(z, x).all()
    assert torch.equal(larger.project(z, x), z)
    assert larger.eps == Feasible(FITTED, eps).scaled(1.7).eps


@given(SEEDS, EPS)
def test_rows_are_projected_one_by_one(seed: int, eps: float) -> None:
    x = FITTED.encode(some(seed))
    z, threat = away(x, seed, 0.3), Feasible(FITTED, eps)
    chosen = torch.arange(0, len(x), 3)
    torch.testing.assert_close(
        threat.take(chosen).project(z[chosen], x[chosen]), threat.project(z, x)[chosen], rtol=0, atol=1e-6
    )
    assert threat.project(z[:0], x[:0]).shape == (0, FITTED.width)


def test_contains_says_what_is_wrong_with_a_row() -> None:
    table = edited(TABLE, 5, protocol="tcp", flag="SF", count=100.0, srv_count=50.0, total=150.0, same_rate=0.5)
    table = edited(table, err=0.5, rej=0.3, packets=10.0, bytes=200.0, mean=20.0, age=50.0, victim=20.0, land=0.0)
    x, threat = FITTED.encode(table, torch.float64), Feasible(FITTED, 0.2)
    good = asked(x, count=102.0, total=152.0)
    assert threat.contains(good, x).all()
    cases: dict[str, dict[str, float]] = {
        "fixed": {"victim": 21.0},
        "flag": {"land": 1.0},
        "one-way up": {"packets": 9.0},
        "one-way down": {"age": 51.0},
        "an integer": {"count": 102.5, "total": 152.5},
        "a rate": {"err": 0.505},
        "radius": {"err": 0.71, "rej": 0.1},
        "relation": {"err": 0.6, "rej": 0.42},
        "equality": {"count": 102.0},
        "bounds": {"duration": 1e9},
    }
    for what, values in cases.items():
        assert not threat.contains(asked(x, **values), x).any(), what
    other = x.clone()
    other[:, FITTED.blocks["flag"]] = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert not threat.contains(other, x).any()
    assert not threat.contains(x + math.nan, x).any()


ROW = edited(TABLE, 7, protocol="tcp", flag="SF", count=200.0, srv_count=100.0, total=300.0, same_rate=0.5)
ROW = edited(ROW, err=0.6, rej=0.3, packets=10.0, bytes=200.0, mean=20.0, age=50.0)


def test_a_field_is_given_the_value_that_a_relation_tells_it() -> None:
    assert became(0.3, ROW, count=204.0) == {"count": 204.0, "total": 304.0}  # 100 / 204 is 0.5 within 0.02
    assert became(0.3, ROW, count=220.0) == {"count": 220.0, "total": 320.0, "same_rate": 0.45}
    assert became(0.3, ROW, srv_count=120.0) == {"srv_count": 120.0, "total": 320.0, "same_rate": 0.6}
    assert became(0.3, ROW, packets=12.0) == {"packets": 12.0, "mean": 17.0}  # 200 / 12 is 16.7


def test_a_told_value_that_is_out_of_reach_pulls_what_it_hangs_on() -> None:
    """With eps 0.05 the rate may rise to 0.55 and not beyond: so srv_count stops short of 115."""
    changed = became(0.05, ROW, srv_count=115.0)
    assert changed["same_rate"] <= 0.55
    assert 105 <= changed["srv_count"] <= 114
    assert changed["total"] == 200 + changed["srv_count"]


def test_an_inequality_is_met_where_the_line_to_the_original_meets_it() -> None:
    """From 0.6 + 0.3 to 0.9 + 0.5, which is cut to the ball 0.8 + 0.5: 1.01 lies 0.11 / 0.4 along the way."""
    assert became(0.2, ROW, err=0.9, rej=0.5) == {"err": 0.65, "rej": 0.35}
    assert became(0.2, ROW, err=0.9) == {"err": 0.71}


def test_integers_take_the_nearest_step_inside_the_ball() -> None:
    """Half of 1/299 short of 3 steps: 3 is nearest and outside, 2 is inside; packets go from 1 to 199."""
    high, low = FITTED.high[PLACE["packets"]], FITTED.low[PLACE["packets"]]
    unit = 1 / (high - low)
    table = edited(ROW, packets=50.0, bytes=0.0, mean=0.0)
    assert became(2.9 * unit, table, packets=80.0) == {"packets": 52.0}
    assert became(3.0 * unit * (1 + 1e-6), table, packets=80.0) == {"packets": 53.0}
    assert became(2.9 * unit, table, packets=51.6) == {"packets": 52.0}
    assert became(2.9 * unit, table, packets=51.4) == {"packets": 51.0}
    assert became(2.9 * unit, table, packets=20.0) == {}


def test_a_relation_that_the_original_breaks_asks_nothing_of_it() -> None:
    table = edited(ROW, err=0.7, rej=0.5)
    assert became(0.1, table, err=0.8) == {"err": 0.8}
    assert became(0.1, table, srv_count=104.0) == {"srv_count": 104.0, "total": 304.0}


def test_a_value_outside_the_training_rows_stays_and_holds_what_hangs_on_it() -> None:
    table = edited(ROW, bytes=1e10, mean=1e9)
    assert became(0.3, table, bytes=1e5, mean=50.0, packets=90.0, srv_count=104.0) == {
        "srv_count": 104.0,
        "total": 304.0,
    }


def test_a_category_that_training_never_saw_holds_what_hangs_on_it() -> None:
    table = edited(ROW, protocol="sctp")
    assert became(0.3, table, rej=0.1, err=0.5, srv_count=104.0, age=40.0) == {
        "age": pytest.approx(40.0, rel=1e-6),
        "err": 0.5,
    }


def test_large_numbers_stay_what_they_were_and_never_fall() -> None:
    """At a billion bytes a step of float32 is hundreds of bytes."""
    schema = Schema("large", (Field("bytes", "integer", "up", log=True), Field("word", "category")))
    count = np.random.default_rng(0).integers(10**8, 10**9, 300).astype(np.float64)
    table = Table(schema, {"bytes": count, "word": np.full(300, "a", object)}, np.array([], object))
    fitted = Preprocessing.fit(table)
    x = fitted.encode(table)
    threat = Feasible(fitted, 0.1)
    z = threat.project(x + torch.linspace(-1e-6, 1e-6, 300)[:, None], x)
    now = fitted.to_table(z, table).columns["bytes"]
    assert ((now == count) == (z == x)[:, 0].numpy()).all()
    assert (now >= count).all()
    assert (now == np.round(now)).all()
    assert 50 < (now > count).sum() < 250


def numbers(relations: tuple[str, ...], top: float, **values: list[float]) -> tuple[Preprocessing, Tensor]:
    """A table of free integers from 0 to `top` and one word; what was fitted on it, and its vectors."""
    fields = (*(Field(name, "integer", "free", high=top) for name in values), Field("word", "category"))
    count = len(next(iter(values.values())))
    columns = {**{name: np.array(each) for name, each in values.items()}, "word": np.full(count, "x", object)}
    table = Table(Schema("numbers", fields, relations), columns, np.array([], object))
    fitted = Preprocessing.fit(table)
    return fitted, fitted.encode(table)


def test_what_no_share_of_a_move_satisfies_is_taken_back_and_nothing_else() -> None:
    """A product of integers that has to stay 36, beside a field that may be anything."""
    fitted, x = numbers(("a * b == 36",), 36.0, a=[6.0, 1.0, 36.0], b=[6.0, 36.0, 1.0], c=[3.0, 0.0, 36.0])
    threat = Feasible(fitted, 0.5)
    for seed in range(20):
        z = threat.project(away(x, seed, 0.5), x)
        assert threat.contains(z, x).all()
        assert (fitted.typed(fitted.decode(z))[:, :2].prod(1) == 36).all()
    z = threat.project(asked(x[:1], fitted, a=7.0, b=8.0, c=5.0), x[:1])
    assert fitted.typed(fitted.decode(z)).tolist() == [[6.0, 6.0, 5.0]]
    # a cliff behind the original, which neither the straight line nor half of it comes near
    fitted, x = numbers(("min(100 * a, 40) <= 39",), 36.0, a=[0.0, 36.0], c=[0.0, 36.0])
    z = Feasible(fitted, 1.0).project(asked(x[:1], fitted, a=36.0, c=5.0), x[:1])
    assert fitted.typed(fitted.decode(z)).tolist() == [[0.0, 5.0]]


def test_a_row_that_cannot_be_repaired_is_given_back() -> None:
    """Each round brings down one more link of the chain; it is longer than there are rounds."""
    names = "abcdefgh"
    chain = ("a <= 5", *(f"{low} <= {high}" for high, low in pairwise(names)))
    fitted, x = numbers(chain, 10.0, **{name: [0.0, 5.0, 10.0] for name in (*names, "free")})
    z = asked(x[:1], fitted, **dict.fromkeys((*names, "free"), 10.0))
    assert torch.equal(Feasible(fitted, 1.0).project(z, x[:1]), x[:1])


def test_a_value_that_training_did_not_reach_is_not_moved() -> None:
    """Its vector says 20, the largest of the training rows, and it may have been anything above."""
    fitted, x = numbers((), 100.0, a=[0.0, 10.0, 20.0])
    z = Feasible(fitted, 0.1).project(x - 0.1, x)
    assert fitted.typed(fitted.decode(z))[:, 0].tolist() == [0.0, 8.0, 20.0]


def test_what_is_no_number_is_the_original() -> None:
    x = FITTED.encode(ROW)
    assert torch.equal(Feasible(FITTED, 0.3).project(torch.full_like(x, math.nan), x), x)


@given(SEEDS, EPS)
def test_samples_are_feasible_spread_and_repeatable(seed: int, eps: float) -> None:
    x, threat = FITTED.encode(some(seed)), Feasible(FITTED, eps)
    z = threat.sample(x, torch.Generator().manual_seed(seed))
    assert threat.contains(z, x).all()
    assert torch.equal(z, threat.sample(x, torch.Generator().manual_seed(seed)))
    if eps >= 0.1:
        for name in ("duration", "packets", "age", "err", "srv_count"):
            assert (z != x)[:, PLACE[name]].float().mean() > 0.3, name


def test_steps_go_where_change_is_allowed() -> None:
    x = FITTED.encode(some(0))
    step = Feasible(FITTED, 0.1).steepest(away(torch.zeros_like(x), 1, 1.0), x)
    free = torch.tensor([k < N and FITTED.numeric[k].change != "fixed" for k in range(FITTED.width)])
    assert (step[:, free].abs() == 1).all()
    assert (step[:, ~free] == 0).all()


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FITTED.width, 32), nn.ReLU(), nn.Linear(32, 2))


@pytest.mark.parametrize("eps", [0.05, 0.3])
def test_the_attacks_run_on_it_as_they_are(eps: float) -> None:
    table = some(3, 100)
    x, y = FITTED.encode(table), torch.ones(100, dtype=torch.int64)
    gain = ClassifierGain(model(0), y, cross_entropy)
    threat, start = Feasible(FITTED, eps), gain(x)
    for attack in (
        lambda: pgd(gain, x, threat, steps=10, rng=torch.Generator().manual_seed(0)),
        lambda: apgd(gain, x, threat, steps=10, rng=torch.Generator().manual_seed(0)),
        lambda: apgd(gain, x, threat, steps=10, restarts=2, early_stop=True, rng=torch.Generator().manual_seed(0)),
    ):
        z = attack()
        assert threat.contains(z, x).all()
        assert not any(each.any() for each in broken(FITTED.to_table(z, table)).values())
        assert (gain(z) > start).float().mean() > 0.9
        assert torch.equal(z, attack())


def test_the_originals_are_not_mixed_up_when_a_batch_is_written_over() -> None:
    """The last batch's originals are kept for the next step: by what they hold, not by where they are."""
    x, threat = FITTED.encode(some(0)), Feasible(FITTED, 0.1)
    z = away(x, 0, 0.3)
    threat.project(z, x)
    other = FITTED.encode(some(1))
    x.data.copy_(other)
    assert torch.equal(threat.project(z, x), Feasible(FITTED, 0.1).project(z, other))


def test_without_relations_only_boxes_and_types_are_left() -> None:
    bare = replace(FITTED, schema=replace(SCHEMA, relations=()))
    x = bare.encode(Table(bare.schema, ROW.columns, ROW.labels))
    z = Feasible(bare, 0.2).project(asked(x, bare, err=0.9, rej=0.5), x)
    raw = bare.typed(bare.decode(z))
    assert raw[0, [PLACE["err"], PLACE["rej"]]].tolist() == [0.8, 0.5]


def test_what_is_not_constrained_moves_all_numbers_and_no_words() -> None:
    x = FITTED.encode(some(0))
    threat = unconstrained(FITTED, 0.1)
    z = threat.project(away(x, 0, 5.0), x)
    assert torch.equal(z[:, N:], x[:, N:])
    assert threat.contains(z, x).all()
    moved = (z[:, :N] - x[:, :N]).abs().amax(0)
    torch.testing.assert_close(moved, torch.full((N,), 0.1), rtol=0, atol=1e-6)


def test_it_is_described_in_json() -> None:
    told = json.loads(json.dumps(Feasible(FITTED, 0.1).describe()))
    assert told["norm"] == "linf"
    assert told["kind"] == "feasible flow"
    assert (told["eps"], told["schema"], told["changeable"]) == (0.1, "made", 11)
    assert told["relations"] == list(SCHEMA.relations)


def test_a_radius_or_a_relation_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"The 'eps' parameter must be a number in the range \(0, inf\)\. Got 0 instead"
    ):
        Feasible(FITTED, 0)
    wrong = replace(FITTED, schema=replace(SCHEMA, relations=("err + rej",)))
    with pytest.raises(RelationError, match="a comparison at position 10"):
        Feasible(wrong, 0.1)

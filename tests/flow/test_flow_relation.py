"""Relations: what a text means on numbers worked out by hand, what is refused and where, and all of them at once."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_flows import SCHEMA, rows
from torch import Tensor

from sparring.domains.flow.joint import Joint
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.relation import Column, Comparison, Number, Operation, Target
from sparring.domains.flow.relation_text import RelationError, parse

CPU = torch.device("cpu")


def violation(text: str, words: dict[str, str] | None = None, **values: float | list[float]) -> Tensor:
    """Of one relation on rows of these values; a category is one word for all of them."""
    numbers = {name: torch.as_tensor(value, dtype=torch.float64).reshape(-1) for name, value in values.items()}
    count = max([len(value) for value in numbers.values()] or [1])

    def word(name: str, which: str) -> Tensor:
        return torch.full((count,), (words or {})[name] == which)

    return parse(text, SCHEMA).violation(lambda name: numbers[name], word)


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("err + rej <= 1.01", {"err": 0.9, "rej": 0.2}, 0.09),
        ("err + rej <= 1.01", {"err": 0.5, "rej": 0.51}, 0.0),  # 1.01 up to rounding
        ("count >= 2 * srv_count + 1", {"count": 4.0, "srv_count": 3.0}, 3.0),
        ("count - srv_count - total == 0", {"count": 9.0, "srv_count": 3.0, "total": 2.0}, 4.0),  # from the left
        ("count / srv_count / 2 <= 1", {"count": 12.0, "srv_count": 2.0}, 2.0),
        ("(count + srv_count) * 2 <= 3", {"count": 1.0, "srv_count": 2.0}, 3.0),
        ("count + srv_count * 2 <= 3", {"count": 1.0, "srv_count": 2.0}, 2.0),
        ("same_rate == srv_count / count within 0.02", {"same_rate": 0.5, "srv_count": 3.0, "count": 4.0}, 0.23),
        ("same_rate == srv_count / count within 0.02", {"same_rate": 0.77, "srv_count": 3.0, "count": 4.0}, 0.0),
        ("same_rate == srv_count / count", {"same_rate": 0.5, "srv_count": 3.0, "count": 0.0}, 0.0),  # divides by zero
        ("max(count, srv_count) <= min(total, 5)", {"count": 3.0, "srv_count": 8.0, "total": 9.0}, 3.0),
        ("max(2, count) <= 1", {"count": 0.0}, 1.0),
        ("min(max(1, 3), count) >= 4", {"count": 9.0}, 1.0),
        ("rej > 0 => srv_count > 1", {"rej": 0.0, "srv_count": 0.0}, 0.0),
        ("rej > 0 => srv_count >= 3", {"rej": 0.5, "srv_count": 1.0}, 2.0),
        ("rej > 0 and err > 0 => srv_count >= 3", {"rej": 0.5, "err": 0.0, "srv_count": 1.0}, 0.0),
        ("count / srv_count > 9 => rej == 0", {"count": 1.0, "srv_count": 0.0, "rej": 0.25}, 0.25),  # a premise is true
        ("count != 3", {"count": 2.0}, 0.0),
        ("2e1 <= count", {"count": 10.0}, 10.0),
        (".5 + count <= 1.", {"count": 1.0}, 0.5),
    ],
)
def test_the_violation_is_what_is_missing(text: str, values: dict[str, float], expected: float) -> None:
    assert violation(text, **values).tolist() == pytest.approx([expected], abs=1e-8)


@pytest.mark.parametrize(
    ("text", "values"),
    [("count < 3", {"count": 3.0}), ("count > 3", {"count": 3.0}), ("count != 3", {"count": 3.0})],
)
def test_a_strict_comparison_is_broken_by_equality(text: str, values: dict[str, float]) -> None:
    assert violation(text, **values).item() > 0


def test_words_are_compared_whole() -> None:
    for flag, expected in (("S0", 4.0), ("SF", 0.0)):
        assert violation("flag == 'S0' => bytes == 0", {"flag": flag}, bytes=4.0).item() == pytest.approx(expected)
        assert violation("'S0' != flag => bytes == 4", {"flag": flag}, bytes=4.0).item() == pytest.approx(0.0)
    told = "protocol in {'udp', 'icmp'} => flag == 'SF'"
    assert violation(told, {"protocol": "icmp", "flag": "S0"}).item() == 1.0
    assert violation(told, {"protocol": "tcp", "flag": "S0"}).item() == 0.0
    assert violation(told, {"protocol": "udp", "flag": "SF"}).item() == 0.0


def test_each_row_is_valued_by_itself() -> None:
    told = violation("rej > 0 => err <= rej", rej=[0.0, 0.5, 0.5], err=[0.9, 0.4, 0.75])
    assert told.tolist() == pytest.approx([0.0, 0.0, 0.25], abs=1e-8)


def test_a_relation_says_the_value_of_a_field() -> None:
    sum_of = Operation("+", Column("count"), Column("srv_count"))
    assert parse("total == count + srv_count within 2", SCHEMA).target == Target("total", sum_of, 2.0)
    assert parse("count + srv_count == total", SCHEMA).target == Target("total", sum_of, 0.0)
    assert parse("count == count + srv_count", SCHEMA).target is None
    assert parse("total <= count", SCHEMA).target is None
    assert parse("rej > 0 => srv_count > 1", SCHEMA).fields == {"rej", "srv_count"}
    assert parse("count <= 2", SCHEMA).conclusion == Comparison(Column("count"), "<=", Number(2.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a number, a field, a word in single quotes or '(' at position 1. Got 'the end'"),
        ("counts <= 3", "a field of 'made' at position 1. Got 'counts'"),
        ("count <= ", "a number, a field, a word in single quotes or '(' at position 10. Got 'the end'"),
        ("count 3", "a comparison at position 7. Got '3'"),
        ("count <= 3 4", "the end of the relation at position 12. Got '4'"),
        ("count <= 3 and err <= 1", "'=>' after conditions joined by 'and' at position 24. Got 'the end'"),
        ("(count + 1 <= 3", "')' at position 12. Got '<='"),
        ("max(count) <= 3", "',' at position 10. Got ')'"),
        ("count <= 3 within 1", "'within' after == only at position 12. Got 'within'"),
        ("count == 3 within err", "a number at position 19. Got 'err'"),
        ("flag <= 'S0'", "== or != beside a word at position 6. Got '<='"),
        ("count == 'S0'", "the name of a category field beside a word at position 1. Got 'count'"),
        ("flag == 3", "a word in single quotes beside a category field at position 9. Got '3'"),
        ("flag == protocol", "a word in single quotes beside a category field at position 9. Got 'protocol'"),
        ("flag + 1 <= 3", "a number or a numeric field at position 1. Got 'flag'"),
        ("count in {'a'}", "the name of a category field at position 1. Got 'count'"),
        ("flag in {S0}", "a word in single quotes at position 10. Got 'S0'"),
        ("1 <= 2", "a condition that names a field at position 1. Got '1'"),
        ("count / (1 - 1) <= 2", "a divisor that is not zero at position 9. Got '('"),
        ("count <= 3; err", "a number, a name, a word in single quotes or a sign at position 11. Got ';'"),
        ("__import__('os') <= 3", "a field of 'made' at position 1. Got '__import__'"),
    ],
)
def test_what_is_no_relation_is_refused_where_it_goes_wrong(text: str, message: str) -> None:
    with pytest.raises(RelationError) as refusal:
        parse(text, SCHEMA)
    assert f"must have {message} instead." in str(refusal.value)


EXTRA = (
    "count != 7",
    "err < rej",
    "rej > err => srv_count * count <= 900",
    "flag != 'SF' and err > 0.5 => same_rate >= 0.5 - rej",
    "flag in {'REJ', 'nowhere'} => 2 * err == rej within 0.25",
    "victim > 3 => age / 2 >= duration",
    "max(err, rej) <= 0.9",
)


@given(st.integers(0, 10_000))
def test_all_at_once_is_one_by_one(seed: int) -> None:
    schema = replace(SCHEMA, relations=(*SCHEMA.relations, *EXTRA))
    table = rows(seed, 12, schema)
    fitted = Preprocessing.fit(table)
    joint = Joint.of(fitted, CPU)
    raw = torch.tensor([[c[k] for n, c in table.columns.items() if schema.field(n).numeric] for k in range(12)])
    raw = (raw * (1 + torch.randint(-1, 2, raw.shape, generator=torch.Generator().manual_seed(seed)))).double()
    found = joint.slack(raw[:, list(joint.columns)], joint.words(fitted.encode(table)))
    place = {field.name: k for k, field in enumerate(fitted.numeric)}
    for r, relation in enumerate(joint.relations):
        told = relation.slack(
            lambda name: raw[:, place[name]],
            lambda name, word: torch.tensor((table.columns[name] == word).tolist()),
        )
        torch.testing.assert_close(found[:, r], told, rtol=1e-12, atol=1e-12)


def test_relations_of_fixed_fields_are_left_out() -> None:
    joint = Joint.of(Preprocessing.fit(rows(0, 50)), CPU)
    assert "protocol in {'udp', 'icmp'} => flag == 'SF'" not in {each.text for each in joint.relations}
    assert len(joint.relations) == len(SCHEMA.relations) - 1
    assert "victim" not in joint.place

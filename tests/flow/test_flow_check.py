"""The independent check: the grammar as it is written down, and every way in which a changed flow can be impossible."""

from dataclasses import replace

import numpy as np
import pytest

from sparring.domains.flow.check import applies, holds, understood, violations
from sparring.domains.flow.schema import Field, Schema
from sparring.domains.flow.table import Table

FIELDS = (
    Field("a", "real", "up", low=-5.0, high=10.0),
    Field("b", "integer", "free"),
    Field("r", "rate", "down", high=1.0, step=0.01),
    Field("on", "flag", high=1.0),
    Field("c", "category"),
    Field("d", "category"),
)
SCHEMA = Schema("small", FIELDS, (), "what", ("ok",))


def table(
    a=(1.0, 2.0, 0.0), b=(2.0, 2.0, 0.0), r=(0.5, 0.25, 0.0), on=(0.0, 1.0, 1.0), c="xyx", d="xxy", schema=SCHEMA
):
    numbers = {"a": a, "b": b, "r": r, "on": on}
    columns = {name: np.array(values, np.float64) for name, values in numbers.items()}
    words = {name: np.array(list(values), object) for name, values in (("c", c), ("d", d))}
    return Table(schema, columns | words, np.array(["ok", "bad", "bad"], object))


@pytest.mark.parametrize(
    ("relation", "rows"),
    [
        ("a <= b", [1, 1, 1]),
        ("a < b", [1, 0, 0]),
        ("a >= b", [0, 1, 1]),
        ("a > b", [0, 0, 0]),
        ("a == b", [0, 1, 1]),
        ("a != b", [1, 0, 0]),
        ("a == b within 1", [1, 1, 1]),
        ("a == b within .5", [0, 1, 1]),
        ("a + b * 2 == 5", [1, 0, 0]),
        ("(a + b) * 2 == 6", [1, 0, 0]),
        ("a - b - 1 == 0 - 2", [1, 0, 0]),
        ("b / a / 2 == 1", [1, 0, 1]),
        ("8 / b / 2 == 2", [1, 1, 1]),
        ("max(a, b) - min(a, b) == 1", [1, 0, 0]),
        ("max(a + 1, min(b, 3)) == 2", [1, 0, 0]),
        ("1e0 + 2.5E-1 == 1.25", [1, 1, 1]),
        ("a / 0 == 7", [1, 1, 1]),
        ("b / a > 1", [1, 0, 1]),
        ("b / a <= 1", [0, 1, 1]),
        ("1 / (1 / a) == 99", [0, 0, 1]),
        ("c == 'x'", [1, 0, 1]),
        ("c != 'x'", [0, 1, 0]),
        ("c == d", [1, 0, 0]),
        ("'x' == c", [1, 0, 1]),
        ("c in {'x'}", [1, 0, 1]),
        ("c in {'q', 'y'}", [0, 1, 0]),
        ("on == 1 => a == 2", [1, 1, 0]),
        ("on == 1 and c == 'y' => a == 0", [1, 0, 1]),
        ("on == 1 and c in {'x', 'z'} and a <= 0 => b >= 1", [1, 1, 0]),
        ("b / a == 9 => c == 'y'", [1, 1, 0]),
    ],
)
def test_a_relation_means_what_the_grammar_says(relation, rows):
    assert holds(relation, table()).tolist() == [bool(row) for row in rows]
    assert holds(" ".join(relation.split()).replace(" <= ", "<=").replace(" + ", "+"), table()).tolist() == [
        bool(row) for row in rows
    ]


def test_rounding_is_forgiven_and_no_more():
    one = table(a=(1.01, 1.01, 1.01), b=(1.01 + 1e-9, 1.01 - 1e-9, 1.0099))
    assert holds("a <= b", one).tolist() == [True, True, False]
    assert holds("a < b", one).tolist() == [False, False, False]
    assert holds("a == b", one).tolist() == [True, True, False]
    assert holds("a != b", one).tolist() == [False, False, True]
    assert holds("a == b within 0.0001", one).all()
    assert holds("r + r + r <= 0.03", table(r=(0.01, 0.01, 0.0100001))).tolist() == [True, True, False]


def test_conditions_say_in_which_rows_a_relation_says_something():
    assert applies("on == 1 => a == 2", table()).tolist() == [False, True, True]
    assert applies("a == 2", table()).all()


@pytest.mark.parametrize(
    ("relation", "message"),
    [
        ("", "must have a number, a field"),
        ("a", "must have <= or >= or =="),
        ("a <=", "its end"),
        ("a <= b c", "must end at character 8"),
        ("e <= 1", "must name fields of 'small', and 'e' is none, at character 1"),
        ("a <= -1", "must have a number, a field"),
        ("a = b", "must be a relation at character 2"),
        ("a <= b; b", "must be a relation at character 7"),
        ("__import__('os') <= 1", "'__import__' is none"),
        ("a.real <= 1", "must be a relation"),
        ("a ** 2 <= 1", "must have a number"),
        ("a <= b and b <= a", "must have => after its conditions"),
        ("a <= b => b <= a => a <= b", "must end"),
        ("a <= b <= 3", "must end"),
        ("(a <= b", r"must have \)"),
        ("max(a) <= 1", "must have ,"),
        ("c <= 'x'", "must compare numbers with numbers, or words with words"),
        ("c == 1", "must compare numbers with numbers, or words with words"),
        ("c + a == 1", "must not reckon with words"),
        ("max(c, d) == 'x'", "must not reckon with words"),
        ("a in {'x'}", "must have a category before 'in'"),
        ("c in {1}", "must have a 'word'"),
        ("c in {}", "must have a 'word'"),
        ("a <= b within 1", "must have 'within' after an =="),
        ("c == 'x' within 1", "must have 'within' after an =="),
        ("a == b within b", "must have a number"),
        ("and <= 1", "must have a number, a field"),
        ("c == 'x", "must be a relation"),
    ],
)
def test_what_is_no_relation_is_refused_with_the_place(relation, message):
    with pytest.raises(ValueError, match=message):
        understood(relation, SCHEMA)


def changes(**columns):
    original = table()
    return violations(original, replace(original, columns={**original.columns, **columns}))


def test_what_is_not_changed_is_feasible():
    found = changes()
    assert found.feasible.all()
    assert found.broken == {}
    assert found.of(0) == ()


@pytest.mark.parametrize(
    ("columns", "broken"),
    [
        ({"a": [1.0, 1.9, 0.0]}, "a must not be lowered"),
        ({"r": [0.5, 0.26, 0.0]}, "r must not be raised"),
        ({"on": [0.0, 0.0, 1.0]}, "on must not change"),
        ({"c": ["x", "x", "x"]}, "c must not change"),
        ({"b": [2.0, 2.5, 0.0]}, "b must be an integer"),
        ({"r": [0.5, 0.245, 0.0]}, "r must be a multiple of 0.01"),
        ({"r": [0.5, -0.01, 0.0]}, "r must be >= 0"),
        ({"a": [1.0, 10.1, 0.0]}, "a must be <= 10"),
        ({"b": [2.0, np.nan, 0.0]}, "b must be a finite number"),
        ({"b": [2.0, np.inf, 0.0]}, "b must be a finite number"),
    ],
)
def test_every_kind_of_violation_is_found_in_its_row_and_named(columns, broken):
    ((name, values),) = columns.items()
    found = changes(**{name: np.array(values, object if name == "c" else np.float64)})
    assert found.of(1) == (broken,)
    assert found.feasible.tolist() == [True, False, True]
    assert found.counts() == {broken: 1}


def test_a_flag_that_may_not_change_must_also_be_a_flag():
    assert set(changes(on=np.array([0.0, 1.0, 0.5])).of(2)) == {"on must be 0 or 1", "on must not change"}


def test_allowed_changes_and_rounding_are_feasible():
    found = changes(
        a=np.array([1.0 - 1e-9, 5.0, 0.0]),
        b=np.array([7.0, 1.0 + 1e-8, 0.0]),
        r=np.array([0.1 + 0.2, 0.07 * 3 + 1e-12, 0.0]),
        on=np.array([0.0, 1.0, 1.0]),
    )
    assert found.feasible.all(), found.broken


def test_large_integers_must_be_integers():
    original = table(b=(1e9, 2.0, 0.0))
    changed = replace(original, columns={**original.columns, "b": np.array([1e9 + 0.5, 2.0, 0.0])})
    assert violations(original, changed).of(0) == ("b must be an integer",)


def test_relations_are_checked_on_the_changed_rows():
    schema = replace(SCHEMA, relations=("a <= b", "c == 'x' => r <= 0.5"))
    original = table(schema=schema)
    changed = replace(original, columns={**original.columns, "a": np.array([2.5, 2.0, 0.0])})
    found = violations(original, changed)
    assert found.of(0) == ("a <= b",)
    assert found.feasible.tolist() == [False, True, True]


def test_tables_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"must be of one length\. Got 3 and 1"):
        violations(table(), table().take(np.array([0])))
    with pytest.raises(ValueError, match=r"must be of one schema\. Got 'small' and 'other'"):
        violations(table(), table(schema=replace(SCHEMA, name="other")))


def test_the_check_shares_no_code_with_the_attack():
    from pathlib import Path

    import sparring.domains.flow.check as check

    source = Path(check.__file__).read_text()
    lines = [line for line in source.splitlines() if line.startswith(("import", "from"))]
    modules = {line.split()[1] for line in lines}
    assert modules == {
        *("re", "collections.abc", "dataclasses", "functools", "typing", "numpy", "numpy.typing"),
        *("sparring.domains.flow.schema", "sparring.domains.flow.table"),
    }
    assert "eval(" not in source
    assert "exec(" not in source

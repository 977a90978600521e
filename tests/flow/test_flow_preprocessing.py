"""The fitted preprocessing: closed forms of the units, exact round trips, refusals by name."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_flows import SCHEMA, edited, rows

from sparring.domains.flow.columns import ColumnError
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.schema import Field, Schema
from sparring.domains.flow.table import Table

TRAINED = Preprocessing.fit(rows(0, 400))
SEEDS = st.integers(0, 10_000)


def small(values: list[float], words: list[str], **field: object) -> Table:
    schema = Schema("small", (Field("word", "category"), Field("v", **{"kind": "real", **field})))  # type: ignore[arg-type]
    return Table(schema, {"word": np.array(words, object), "v": np.array(values, np.float64)}, np.array([], object))


def test_the_coordinates_are_the_numeric_fields_and_then_a_block_per_category() -> None:
    fitted = Preprocessing.fit(small([1.0, 3.0, 2.0], ["b", "a", "c"]))
    assert fitted.names == ("v", "word=a", "word=b", "word=c")
    u = fitted.encode(small([2.5, 9.0, -4.0], ["c", "unseen", "a"]))
    expected = [[0.75, 0, 0, 1], [1.0, 0, 0, 0], [0.0, 1, 0, 0]]  # cut outside the training rows; unseen: zeros
    assert u.dtype == torch.float32
    torch.testing.assert_close(u, torch.tensor(expected), rtol=0, atol=0)


def test_a_logarithmic_field_is_scaled_after_its_logarithm() -> None:
    fitted = Preprocessing.fit(small([0.0, 999.0], ["a", "a"], log=True))
    u = fitted.encode(small([99.0], ["a"], log=True), torch.float64)
    assert u[0, 0].item() == pytest.approx(math.log(100) / math.log(1000), abs=1e-15)


def test_a_constant_column_keeps_its_own_unit() -> None:
    fitted = Preprocessing.fit(small([7.0, 7.0], ["a", "a"]))
    u = fitted.encode(small([7.0, 7.25, 100.0], ["a", "a", "a"]))
    torch.testing.assert_close(u[:, 0], torch.tensor([0.0, 0.25, 1.0]), rtol=0, atol=0)
    assert fitted.decode(u)[:2, 0].tolist() == [7.0, 7.25]


@given(SEEDS)
def test_decoding_inverts_encoding_in_float64(seed: int) -> None:
    table = rows(0, 400).take(np.random.default_rng(seed).integers(0, 400, 50))
    raw = np.stack([table.columns[field.name] for field in TRAINED.numeric], 1)
    decoded = TRAINED.decode(TRAINED.encode(table, torch.float64)).numpy()
    np.testing.assert_allclose(decoded, raw, rtol=1e-12, atol=1e-11)


@given(SEEDS)
def test_integers_and_rates_survive_float32(seed: int) -> None:
    """All but `duration` and `age`, which are real: bytes are below 2 million here."""
    table = rows(0, 400).take(np.random.default_rng(seed).integers(0, 400, 50))
    raw = TRAINED.typed(TRAINED.decode(TRAINED.encode(table))).numpy()
    for k, field in enumerate(TRAINED.numeric):
        if field.kind != "real":
            np.testing.assert_array_equal(raw[:, k], table.columns[field.name], err_msg=field.name)


def test_a_typed_rate_is_the_number_that_a_file_is_read_as() -> None:
    rate = small([0.0, 1.0], ["a", "a"], kind="rate", step=0.01)
    fitted = Preprocessing.fit(rate)
    for k in range(101):
        assert fitted.typed(torch.tensor([[k * 0.01 + 0.003]], dtype=torch.float64)).item() == float(f"{k / 100:.2f}")
    fine = Preprocessing.fit(small([0.0, 1.0], ["a", "a"], kind="rate", step=1e-5))  # 1 / 1e-5 is not 100,000
    assert fine.typed(torch.tensor([[0.123449]], dtype=torch.float64)).item() == 0.12345


def test_rows_that_did_not_change_are_the_original_rows() -> None:
    """Also where float32 tells neither a billion bytes from a billion and one, nor what lies outside training."""
    table = edited(rows(1, 3), bytes=987_654_321.0, duration=1e6, protocol="sctp")
    back = TRAINED.to_table(TRAINED.encode(table), table)
    for name, column in table.columns.items():
        assert back.columns[name].tolist() == column.tolist(), name
    raw = torch.tensor([[table.columns[field.name][0] for field in TRAINED.numeric]])
    assert TRAINED.decode(TRAINED.encode(table), raw).tolist() == raw.tolist()


def test_what_changed_is_rounded_to_its_type_and_the_rest_is_not_touched() -> None:
    table = rows(1, 3)
    u = TRAINED.encode(table)
    where = {name: k for k, name in enumerate(TRAINED.names)}
    span = {name: TRAINED.high[k] - TRAINED.low[k] for name, k in where.items() if k < len(TRAINED.numeric)}
    u[0, where["count"]] = (120.4 - TRAINED.low[where["count"]]) / span["count"]
    u[1, where["err"]] = (0.3349 - TRAINED.low[where["err"]]) / span["err"]
    u[2, TRAINED.blocks["flag"]] = torch.tensor([0.1, 0.7, 0.2])
    back = TRAINED.to_table(u, table)
    assert back.columns["count"][0] == 120.0
    assert back.columns["err"][1] == 0.33
    assert back.columns["flag"][2] == TRAINED.categories[1][1]
    changed = {(0, "count"), (1, "err"), (2, "flag")}
    for name, column in table.columns.items():
        for row in range(3):
            if (row, name) not in changed:
                assert back.columns[name][row] == column[row]


def test_it_survives_json() -> None:
    again = Preprocessing.from_dict(json.loads(json.dumps(TRAINED.to_dict(), allow_nan=False)))
    assert again == TRAINED
    assert torch.equal(again.encode(rows(2, 20)), TRAINED.encode(rows(2, 20)))


def test_it_is_fitted_on_the_rows_it_is_given_and_on_no_others() -> None:
    table = rows(0, 400)
    assert TRAINED.high[TRAINED.names.index("bytes")] == table.columns["bytes"].max()
    TRAINED.encode(edited(table, bytes=1e12))
    assert Preprocessing.fit(table) == TRAINED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("count"), r"'count' must be there\. Got 'duration', 'protocol'.* and 6 more instead"),
        (lambda c: c.update(extra=c["count"]), r"'extra' must be one of the 15 of 'made'\. Got it as well"),
        (lambda c: c.update(duration=c.pop("duration")), r"'duration' must be number 1\. Got 'protocol' there"),
        (lambda c: c.update(err=c["flag"]), r"'err' must hold numbers \(rate\)\. Got object, such as '\w+'"),
        (lambda c: c.update(flag=c["err"]), r"'flag' must hold words\. Got 1\.0 \(float\) instead"),
        (lambda c: c.update(err=c["err"] * np.nan), r"'err' must hold finite numbers\. Got nan instead"),
        (lambda c: c.update(bytes=c["bytes"] - 1e9), r"'bytes' must hold numbers >= 0\. Got -\d+\.0 instead"),
    ],
)
def test_a_frame_is_refused_by_the_name_of_its_column(change: object, message: str) -> None:
    columns = dict(rows(0, 30).columns)
    TRAINED.check(columns)
    change(columns)  # type: ignore[operator]
    with pytest.raises(ColumnError, match=message):
        TRAINED.check(columns)


def test_a_column_that_is_there_twice_is_refused() -> None:
    class Twice(dict):  # type: ignore[type-arg]
        def __iter__(self) -> object:  # type: ignore[override]
            return iter([*SCHEMA.names, "victim"])

    with pytest.raises(ColumnError, match=r"'victim' must be there once\. Got it 2 times"):
        TRAINED.check(Twice(rows(0, 3).columns))


def test_no_rows_to_fit_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Preprocessing.fit(rows(0, 5).take(np.array([], int)))


def test_vectors_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(3, 19\)\. Got \(3, 2\)"):
        TRAINED.to_table(torch.zeros(3, 2), rows(0, 3))

"""Which relations flows satisfy: on tables where that is known, and what is written of NSL-KDD and UNSW-NB15."""

import numpy as np
import pytest
from flows import needs_nsl_kdd, needs_unsw_nb15, real

from sparring.domains.flow import nsl_kdd, unsw_nb15
from sparring.domains.flow.check import holds
from sparring.domains.flow.measure import measured, proposed
from sparring.domains.flow.schema import Field, Schema
from sparring.domains.flow.table import Table

SCHEMA = Schema(
    "small",
    (
        Field("part", "integer", unit="connections"),
        Field("all", "integer", unit="connections"),
        Field("share", "rate", high=1.0, step=0.01, unit="share"),
        Field("rest", "rate", high=1.0, step=0.01, unit="share"),
        Field("errors", "integer"),
        Field("never", "integer"),
        Field("kind", "category"),
    ),
    (),
    "what",
    ("ok",),
)


def small(rows=1000, seed=0):
    """part <= all, share == part / all, share + rest <= 1.01; errors only in tcp, but for one row in a hundred."""
    rng = np.random.default_rng(seed)
    whole = rng.integers(1, 100, rows).astype(np.float64)
    part = np.floor(whole * rng.random(rows))
    share = np.round(part / whole, 2)
    kind = np.where(np.arange(rows) % 2 == 0, "tcp", "udp").astype(object)
    errors = np.where(kind == "tcp", rng.integers(1, 5, rows), 0).astype(np.float64)
    errors[1::200] = 3
    columns = {"part": part, "all": whole, "share": share, "rest": np.round(np.floor(100 * (1 - share)) / 100, 2)}
    columns |= {"errors": errors, "never": np.zeros(rows), "kind": kind}
    return Table(SCHEMA, columns, np.where(np.arange(rows) < 400, "ok", "bad").astype(object))


def test_shares_are_counted_over_all_rows_by_class_and_where_the_relation_says_something():
    table = small()
    (found,) = measured(table, ["kind == 'udp' => errors == 0"])
    assert found.n == 1000
    assert found.applying == 500
    assert found.share == 1 - 5 / 1000
    assert found.share_applying == 1 - 5 / 500
    assert found.by_class == {"ok": 1 - 2 / 400, "bad": 1 - 3 / 600}
    (grouped,) = measured(table, ["kind == 'tcp'"], classes=table.columns["kind"])
    assert grouped.by_class == {"tcp": 1.0, "udp": 0.0}
    (empty,) = measured(table, ["kind == 'sctp' => errors == 9"])
    assert (empty.applying, empty.share_applying, empty.share) == (0, 1.0, 1.0)


def test_what_was_put_into_a_table_is_proposed_and_what_nearly_holds_tempts():
    found = proposed(small())
    hold, tempt = ({each.relation for each in group} for group in (found.hold, found.tempt))
    assert {
        "part <= all",
        "share + rest <= 1.01",
        "share == part / all within 0.02",
        "share <= part / all + 0.02",
        "never == 0",
    } <= hold
    assert "all <= part" not in hold | tempt
    assert tempt == {"kind == 'udp' => errors == 0", "errors > 0 => kind == 'tcp'"}


def test_every_proposal_is_true_by_the_check_and_needs_support():
    table = small()
    found = proposed(table)
    for each in found.hold:
        assert holds(each.relation, table).all(), each
    for each in found.tempt:
        assert not holds(each.relation, table).all(), each
        assert each.share_applying >= 0.95
    table.columns["kind"][:10], table.columns["errors"][:10] = "rare", 7
    assert not any("'rare'" in each.relation for each in proposed(table).hold)
    assert any("'rare'" in each.relation for each in proposed(table, support=5).hold)
    assert len(proposed(table, tempting=0.999).tempt) == 0


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="'tempting' parameter must be in the range"):
        proposed(small(), tempting=1)
    for call in (lambda t: measured(t, ["never == 0"]), proposed):
        with pytest.raises(ValueError, match="at least one row"):
            call(small().take(np.zeros(1000, np.bool_)))


@needs_nsl_kdd
@pytest.mark.parametrize("which", [0, 1])
def test_the_relations_of_nsl_kdd_hold_on_every_real_row(which):
    table = real("nsl-kdd")[which]
    for found in measured(table, nsl_kdd.RELATIONS):
        assert found.share == 1, found.relation
    for field in nsl_kdd.FIELDS:
        if field.kind == "rate":
            assert np.abs(table.columns[field.name] * 100 - np.rint(table.columns[field.name] * 100)).max() < 1e-9
    assert table.columns["count"].max() == table.columns["srv_count"].max() == 511
    assert table.columns["dst_host_count"].max() == table.columns["dst_host_srv_count"].max() == 255


@needs_nsl_kdd
def test_what_looks_true_of_nsl_kdd_and_is_not():
    train, test = real("nsl-kdd")
    if len(train) != 25192:
        pytest.skip("the training file is not the fifth of it, which these shares are of")
    host, rates = measured(train, nsl_kdd.FALSE)
    assert round(100 * host.share, 1) == 72.6
    assert round(100 * host.by_class["normal"], 1) == 55.9
    assert round(100 * rates.share, 1) == 98.2
    ratio, guests = measured(train, nsl_kdd.SOFT)
    assert round(100 * ratio.share, 2) == 99.66
    assert (guests.applying, round(guests.n * (1 - guests.share))) == (230, 1)
    ratio, guests = measured(test, nsl_kdd.SOFT)
    assert round(100 * ratio.share, 1) == 97.6
    assert round(100 * guests.share, 2) == 99.57
    assert round(100 * guests.share_applying, 1) == 84.9
    (bare,) = measured(train, ["same_srv_rate == srv_count / count within 0.02"])
    assert round(100 * bare.share, 1) == 78.2, "without min(1, ...) the quotient is above 1 in every fifth row"


@needs_nsl_kdd
def test_the_search_finds_the_relations_of_nsl_kdd():
    found = proposed(real("nsl-kdd")[1], classes=nsl_kdd.classes(real("nsl-kdd")[1].labels))
    hold, tempt = ({each.relation for each in group} for group in (found.hold, found.tempt))
    for relation in nsl_kdd.RELATIONS:
        if not relation.startswith(("protocol_type in", "srv_diff", "root_shell", "logged_in")):
            assert relation in hold, relation
    assert {"logged_in > 0 => protocol_type == 'tcp'", "protocol_type == 'udp' => flag == 'SF'"} <= hold
    assert nsl_kdd.FALSE[1] in tempt
    assert set(found.hold[0].by_class) == {"normal", "dos", "probe", "r2l", "u2r"}


@needs_unsw_nb15
def test_the_relations_of_unsw_nb15_hold_on_every_real_row():
    table = real("unsw-nb15")[-1]
    for found in measured(table, unsw_nb15.RELATIONS):
        assert found.share == 1, found.relation
        assert found.applying > 100, found.relation
    for found in measured(table, unsw_nb15.SOFT):
        assert 0.98 < found.share < 1, found.relation

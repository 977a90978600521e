"""A small schema with a field of every kind and a relation of every form, rows that satisfy it, and what it means."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparring.domains.flow.schema import Field, Schema
from sparring.domains.flow.table import Table

RELATIONS = (
    "err + rej <= 1.01",
    "flag == 'S0' => bytes == 0",
    "srv_count <= count",
    "same_rate == min(1, srv_count / count) within 0.02",
    "total == count + srv_count",
    "mean == bytes / packets within 0.5",
    "rej > 0 and protocol != 'udp' => srv_count > 1",
    "protocol in {'udp', 'icmp'} => flag == 'SF'",
    "age >= err",
)

SCHEMA = Schema(
    "made",
    (
        Field("duration", "real", "up"),
        Field("protocol", "category"),
        Field("bytes", "integer", "up", log=True, unit="bytes"),
        Field("packets", "integer", "up", low=1.0),
        Field("count", "integer", "free", low=0.0, high=300.0),
        Field("srv_count", "integer", "free", low=0.0, high=300.0),
        Field("flag", "category"),
        Field("total", "integer", "free", high=600.0),
        Field("same_rate", "rate", "free", high=1.0, step=0.01),
        Field("err", "rate", "free", high=1.0, step=0.01),
        Field("rej", "rate", "free", high=1.0, step=0.01),
        Field("mean", "integer", "free"),
        Field("age", "real", "down", high=100.0),
        Field("land", "flag", high=1.0),
        Field("victim", "integer", high=50.0),
    ),
    RELATIONS,
    "label",
    ("normal",),
)


def rows(seed: int, n: int, schema: Schema = SCHEMA) -> Table:
    """Rows that satisfy every relation; the first two have all of what is a share, and the first the largest count."""
    rng = np.random.default_rng(seed)
    protocol = rng.choice(["icmp", "tcp", "udp"], n)
    flag = np.where(protocol == "tcp", rng.choice(["REJ", "S0", "SF"], n), "SF")
    packets = rng.integers(1, 200, n)
    count = rng.integers(2, 301, n)
    count[0] = 300
    srv = np.minimum(count, rng.integers(2, 301, n))
    size = np.where(flag == "S0", 0, np.round(np.exp(rng.uniform(0, 14, n))))
    err = rng.integers(0, 101, n)
    rej = (rng.uniform(0, 1, n) * (101 - err)).astype(int)
    err[:2], rej[:2] = (100, 0), (0, 100)
    columns: dict[str, NDArray[Any]] = {
        "duration": rng.exponential(5.0, n),
        "protocol": protocol.astype(object),
        "bytes": size,
        "packets": packets,
        "count": count,
        "srv_count": srv,
        "flag": flag.astype(object),
        "total": count + srv,
        "same_rate": np.round(srv / count, 2),
        "err": err / 100,
        "rej": rej / 100,
        "mean": np.round(size / packets),
        "age": rng.uniform(1.0, 100.0, n),
        "land": rng.integers(0, 2, n),
        "victim": rng.integers(0, 51, n),
    }
    numbers = {field.name: field.numeric for field in schema.fields}
    columns = {name: each.astype(np.float64) if numbers[name] else each for name, each in columns.items()}
    return Table(schema, columns, rng.choice(np.array(["normal", "flood"], dtype=object), n))


def edited(table: Table, row: int = 0, **values: float | str) -> Table:
    """One row of a table with these values."""
    one = table.take(np.array([row]))
    for name, value in values.items():
        one.columns[name][0] = value
    return one


def broken(table: Table) -> dict[str, NDArray[np.bool_]]:
    """Which rows break which relation of `RELATIONS`, written out."""
    c = table.columns
    safe = np.where(c["count"] == 0, 1, c["count"])
    ratio = np.where(c["count"] == 0, c["same_rate"], np.minimum(1, c["srv_count"] / safe))
    packets = np.where(c["packets"] == 0, 1, c["packets"])
    mean = np.where(c["packets"] == 0, c["mean"], c["bytes"] / packets)
    held = (
        c["err"] + c["rej"] <= 1.01 + 1e-9,
        (c["flag"] != "S0") | (c["bytes"] == 0),
        c["srv_count"] <= c["count"],
        np.abs(c["same_rate"] - ratio) <= 0.02 + 1e-9,
        c["total"] == c["count"] + c["srv_count"],
        np.abs(c["mean"] - mean) <= 0.5 + 1e-9,
        (c["rej"] <= 0) | (c["protocol"] == "udp") | (c["srv_count"] > 1),
        ~np.isin(c["protocol"].astype(str), ["udp", "icmp"]) | (c["flag"] == "SF"),
        c["age"] >= c["err"] - 1e-9,
    )
    return {name: ~each for name, each in zip(RELATIONS, held, strict=True)}

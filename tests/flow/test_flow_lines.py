"""The numbers of lines: each well-formed row has its own, whatever stands between, from a file or a pipe."""

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flows import NSL_KDD
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparring.domains.flow.layout import DataError
from sparring.domains.flow.lines import Part, parts, piped
from sparring.domains.flow.nsl_kdd import SCHEMA

GOOD = NSL_KDD[0].rsplit(",", 2)[0]
BAD = {"short": "1,2,3", "word": "x" + GOOD[1:], "blank": "", "spaces": "   ", "bytes": "\udcff" + GOOD}
LINES = st.lists(st.sampled_from(["good", "good", *BAD]), min_size=1, max_size=40)


def encoded(kinds: list[str], end: str) -> bytes:
    """The first line is good, so that the width of a row is known; each good row counts in `src_bytes`."""
    texts = [BAD.get(kind, GOOD.replace("215", str(k), 1)) for k, kind in enumerate(["good", *kinds], 1)]
    return end.join(texts).encode(errors="surrogateescape")


def summary(found: Any) -> tuple[list[int], list[int], list[int]]:
    held: list[Part] = list(found)
    lines = np.concatenate([part.lines for part in held]).tolist()
    values = np.concatenate([part.table.columns["src_bytes"] for part in held]).astype(int).tolist()
    assert all(len(part.lines) == len(part.table) for part in held)
    return lines, values, sorted(each.line for part in held for each in part.refused)


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_line_is_a_row_or_refused_or_says_nothing(
    tmp_path: Path, kinds: list[str], end: str, packed: bool, chunk: int
) -> None:
    content = encoded(kinds, end)
    content = gzip.compress(content) if packed else content
    (tmp_path / "flows.csv").write_bytes(content)
    good = [k for k, kind in enumerate(["good", *kinds], 1) if kind == "good"]
    bad = [k for k, kind in enumerate(["good", *kinds], 1) if kind in ("short", "word", "bytes")]
    expected = (good, good, bad)
    assert summary(parts(tmp_path / "flows.csv", SCHEMA, chunk)) == expected
    assert summary(piped(io.BufferedReader(io.BytesIO(content)), SCHEMA, chunk)) == expected


def test_the_columns_of_a_pipe_are_found_behind_a_broken_first_line() -> None:
    source = io.BufferedReader(io.BytesIO("\n".join(["1,2", GOOD, GOOD]).encode()))
    lines, _, refused = summary(piped(source, SCHEMA, 10))
    assert (lines, refused) == ([2, 3], [1])


def test_the_header_of_a_pipe_is_no_row() -> None:
    source = io.BufferedReader(io.BytesIO("\n".join([",".join(SCHEMA.names), GOOD, GOOD]).encode()))
    lines, values, refused = summary(piped(source, SCHEMA, 10))
    assert (lines, values, refused) == ([2, 3], [215, 215], [])


def test_what_a_file_says_about_labels_is_not_looked_at(tmp_path: Path) -> None:
    (tmp_path / "flows.csv").write_text(f"{GOOD},,21\n{GOOD},normal,21\n")
    (part,) = parts(tmp_path / "flows.csv", SCHEMA, 10)
    assert part.lines.tolist() == [1, 2]
    assert len(part.table.labels) == 0


def test_arff_counts_its_header_and_its_comments(tmp_path: Path) -> None:
    kinds = {name: "string" if name in ("protocol_type", "service", "flag") else "real" for name in SCHEMA.names}
    head = ["@relation flows", *(f"@attribute {name} {kind}" for name, kind in kinds.items()), "@data"]
    (tmp_path / "flows.arff").write_text("\n".join([*head, GOOD, "% a comment", "1,2", GOOD]) + "\n")
    lines, _, refused = summary(parts(tmp_path / "flows.arff", SCHEMA, 2))
    assert (lines, refused) == ([44, 47], [46])


def test_parquet_counts_rows(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    cells = dict(zip(SCHEMA.names, GOOD.split(","), strict=True))
    columns = {
        each.name: [float(cells[each.name])] * 5 if each.numeric else [cells[each.name]] * 5 for each in SCHEMA.fields
    }
    columns["src_bytes"] = [1.0, 2.0, 0.5, 4.0, 5.0]
    parquet.write_table(pa.table(columns), tmp_path / "flows.parquet")
    assert summary(parts(tmp_path / "flows.parquet", SCHEMA, 2)) == ([1, 2, 4, 5], [1, 2, 4, 5], [3])
    with pytest.raises(DataError, match="Parquet can only be read from a file"):
        piped(io.BufferedReader(io.BytesIO((tmp_path / "flows.parquet").read_bytes())), SCHEMA, 2)


def test_a_pipe_that_lacks_columns_or_is_damaged_says_so() -> None:
    with pytest.raises(DataError, match=r"^standard input must have the columns of 'nsl-kdd' .* It lacks duration"):
        piped(io.BufferedReader(io.BytesIO(b"a,b\n1,2\n")), SCHEMA, 10)
    with pytest.raises(DataError, match="standard input must have"):
        piped(io.BufferedReader(io.BytesIO(b"")), SCHEMA, 10)
    cut = gzip.compress("\n".join([GOOD] * 50_000).encode())[:2000]
    with pytest.raises(DataError, match="damaged"):
        list(piped(io.BufferedReader(io.BytesIO(cut)), SCHEMA, 10))

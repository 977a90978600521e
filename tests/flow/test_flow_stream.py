"""Streams of flows: malformed rows are told and never stop them, both ways of reading agree, and memory is bounded."""

import gzip
import io
import tracemalloc

import numpy as np
import pytest
from flows import CIC_HEADER, NSL_KDD, UNSW_HEADER, UNSW_ROW, cic_row, written
from test_flow_readers import arff, same

from sparring.domains.flow import blocks as blocks_module
from sparring.domains.flow import chunks, cic_ddos2019, nsl_kdd, unsw_nb15
from sparring.domains.flow.blocks import blocks
from sparring.domains.flow.chunks import joined
from sparring.domains.flow.layout import DataError
from sparring.domains.flow.stream import stream


def changed(row, at, cell):
    cells = row.split(",")
    cells[at] = cell
    return ",".join(cells)


BAD = {
    "cells": (NSL_KDD[0] + ",1", "the row must have 43 cells. Got 44"),
    "fewer": ("0,tcp", "the row must have 43 cells. Got 2"),
    "word": (changed(NSL_KDD[0], 4, "many"), "'src_bytes' must be an integer in the range [0, inf). Got 'many'"),
    "negative": (changed(NSL_KDD[0], 4, "-5"), "'src_bytes'"),
    "fraction": (changed(NSL_KDD[0], 22, "1.5"), "'count' must be an integer in the range [0, 511]. Got '1.5'"),
    "nan": (changed(NSL_KDD[0], 24, "NaN"), "'serror_rate' must be a number in the range [0, 1]. Got 'NaN'"),
    "missing": (changed(NSL_KDD[0], 24, ""), "'serror_rate'"),
    "infinite": (changed(NSL_KDD[0], 5, "inf"), "'dst_bytes'"),
    "overflow": (changed(NSL_KDD[0], 5, "1e999"), "'dst_bytes'"),
    "flag": (changed(NSL_KDD[0], 6, "3"), "'land' must be 0 or 1. Got '3'"),
    "no category": (changed(NSL_KDD[0], 2, " "), "'service' must be a word"),
    "no label": (changed(NSL_KDD[0], 41, ""), "'label' must be a word"),
    "quote": ('0,"tcp' + NSL_KDD[0][5:], "the row cannot be split into cells"),
    "underscore": (changed(NSL_KDD[0], 4, "1_0"), "'src_bytes'"),
    "hexadecimal": (changed(NSL_KDD[0], 4, "0x10"), "'src_bytes'"),
}


def all_of(path, schema, chunk=50_000):
    parts = list(stream(path, schema, chunk))
    return joined(schema, [part for part, _ in parts]), [row for _, refused in parts for row in refused]


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_told_and_the_rest_goes_on(tmp_path, monkeypatch, name, quick):
    monkeypatch.setattr(chunks, "has_pyarrow", lambda: quick)
    line, reason = BAD[name]
    good, refused = all_of(written(tmp_path / "a.txt", *NSL_KDD[:2], line, NSL_KDD[2]), nsl_kdd.SCHEMA)
    assert [row.line for row in refused] == [3]
    assert refused[0].text == line
    assert reason in refused[0].reason
    assert same(good, all_of(written(tmp_path / "b.txt", *NSL_KDD), nsl_kdd.SCHEMA)[0])


def muddle(rng, rows):
    """Lines of which about one in twenty is bad, some are empty, and the good ones say which they are."""
    lines = [changed(NSL_KDD[int(rng.integers(3))], 4, str(k)) for k in range(rows)]
    bad = [line for line, _ in BAD.values()]
    for k in rng.choice(rows, rows // 20, replace=False):
        lines[k] = bad[int(rng.integers(len(bad)))]
    for k in rng.choice(rows, rows // 50, replace=False):
        lines[k] = " " if rng.random() < 0.5 else ""
    return lines


@pytest.mark.parametrize("seed", range(3))
def test_the_fast_way_and_the_slow_way_agree_whatever_the_chunk(tmp_path, monkeypatch, seed):
    path = written(tmp_path / "a.txt", *muddle(np.random.default_rng(seed), 1500))
    fast = [all_of(path, nsl_kdd.SCHEMA, chunk) for chunk in (7, 400, 10_000)]
    monkeypatch.setattr(chunks, "has_pyarrow", lambda: False)
    slow = all_of(path, nsl_kdd.SCHEMA, 333)
    for good, refused in fast:
        assert same(good, slow[0])
        assert refused == slow[1]
    assert 40 < len(slow[1]) <= 75
    assert len(slow[0]) + len(slow[1]) < 1500
    lines = path.read_text().split("\n")
    assert all(lines[row.line - 1] == row.text for row in slow[1])


def test_a_clean_file_never_takes_the_slow_way(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")

    def slow(*_):
        raise AssertionError("a clean line was read slowly")

    monkeypatch.setattr(chunks, "_one_by_one", slow)
    path = written(tmp_path / "a.txt", *NSL_KDD * 50)
    assert [len(part) for part, _ in stream(path, nsl_kdd.SCHEMA, 64)] == [64, 64, 22]
    monkeypatch.undo()
    looked = []
    one = chunks._line
    monkeypatch.setattr(chunks, "_line", lambda *args: looked.append(args[1]) or one(*args))
    lines = [*NSL_KDD * 500, changed(NSL_KDD[0], 4, "many"), *NSL_KDD * 500]
    good, refused = all_of(written(tmp_path / "b.txt", *lines), nsl_kdd.SCHEMA)
    assert (len(good), [row.line for row in refused]) == (3000, [1501])
    assert len(looked) < 60, "one bad number must not send the whole chunk the slow way"


@pytest.mark.parametrize("quick", [True, False])
def test_what_is_no_text_is_refused(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(chunks, "has_pyarrow", lambda: quick)
    good, odd = NSL_KDD[0].encode(), NSL_KDD[0].encode().replace(b"http", b"ht\xfftp")
    (tmp_path / "a.txt").write_bytes(b"\n".join([good, odd, b"\x00\x01\x02", good]))
    table, refused = all_of(tmp_path / "a.txt", nsl_kdd.SCHEMA)
    assert len(table) == 2
    assert [row.line for row in refused] == [2, 3]
    assert "must be UTF-8. Byte 8 is 0xff" in refused[0].reason


def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks_module, "LONGEST", 1000)
    long = "0," * 200_000
    lines = [NSL_KDD[0], long, NSL_KDD[1], long, long, NSL_KDD[2]]
    table, refused = all_of(written(tmp_path / "a.txt", *lines), nsl_kdd.SCHEMA, 2)
    assert table.labels.tolist() == ["normal", "neptune", "smurf"]
    assert [row.line for row in refused] == [2, 4, 5]
    assert all(row.reason.startswith("the row is longer than") and len(row.text) <= 500 for row in refused)
    refused = all_of(written(tmp_path / "c.txt", *NSL_KDD * 300, long, NSL_KDD[0]), nsl_kdd.SCHEMA, 2)[1]
    assert [(row.line, row.reason.split(" than")[0]) for row in refused] == [(901, "the row is longer")]
    bare = [row.rsplit(",", 1)[0] for row in NSL_KDD]
    lines = [bare[0], bare[1] + "x" * 400_000, bare[2]]
    table, refused = all_of(written(tmp_path / "b.txt", *lines), nsl_kdd.SCHEMA, 2)
    assert table.labels.tolist() == ["normal", "smurf"], "a beginning that would do for a row is none"
    assert [row.line for row in refused] == [2]
    for block in blocks(io.BytesIO("\n".join(lines).encode()), 2):
        assert len(block.data) < 2500


@pytest.mark.parametrize("rows", [1, 2, 3, 1000])
def test_blocks_are_the_file_cut_at_every_rows_lines(rows):
    data = b"".join(b"x" * (k % 7) + b"\n" for k in range(100)) + b"last"
    found = list(blocks(io.BytesIO(data), rows, first=5))
    assert b"".join(block.data for block in found) == data
    assert [block.first for block in found] == list(range(5, 106, rows))
    assert all(block.data.count(b"\n") == rows for block in found[:-1])


def test_memory_does_not_grow_with_the_file(tmp_path):
    lines = "\n".join(NSL_KDD * 2000) + "\n"
    sizes = []
    for times in (1, 12):
        with gzip.open(tmp_path / "a.gz", "wt", compresslevel=1) as file:
            for _ in range(times):
                file.write(lines)
        tracemalloc.start()
        rows = sum(len(part) for part, _ in stream(tmp_path / "a.gz", nsl_kdd.SCHEMA, 2000))
        sizes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert rows == 6000 * times
    assert sizes[1] < 1.2 * sizes[0] < 20e6, "the larger file has 10 MB of text and 24 MB of numbers"


def test_bad_rows_of_other_forms(tmp_path):
    sparse = "{0 5, 3 SF}"
    rows = [row.rsplit(",", 2)[0] + ",normal" for row in NSL_KDD]
    table, refused = all_of(written(tmp_path / "a.arff", *arff(), rows[0], sparse, "'" + rows[1]), nsl_kdd.SCHEMA)
    assert len(table) == 1
    assert [row.line for row in refused] == [48, 49]
    assert "sparse" in refused[0].reason
    assert "not closed" in refused[1].reason
    rows = [cic_row(), cic_row(per_second="Infinity"), cic_row(duration=0), cic_row(duration=0, packets_s="x")]
    table, refused = all_of(written(tmp_path / "a.csv", CIC_HEADER, *rows), cic_ddos2019.SCHEMA)
    assert table.columns["flow_bytes_s"].tolist() == [150e6, 0]
    assert [row.line for row in refused] == [3, 5]


def test_bad_rows_of_parquet_have_their_number(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    rows = [UNSW_ROW.format(id=k, cat="Normal", label=0) for k in range(5)]
    frame = csv.read_csv(written(tmp_path / "u.csv", UNSW_HEADER, *rows))
    at = frame.column_names.index("spkts")
    frame = frame.set_column(at, "spkts", pa.array([1.0, 1.5, None, -1.0, 2.0]))
    parquet.write_table(frame, tmp_path / "u.parquet")
    parts = list(stream(tmp_path / "u.parquet", unsw_nb15.SCHEMA, 2))
    assert [len(part) for part, _ in parts] == [1, 0, 1]
    assert [row.line for _, refused in parts for row in refused] == [2, 3, 4]
    assert "'spkts' must be an integer in the range [0, inf). Got '1.5'" in parts[0][1][0].reason


def test_a_first_row_that_is_bad_does_not_stop_the_stream(tmp_path):
    table, refused = all_of(written(tmp_path / "a.txt", "0,tcp", *NSL_KDD), nsl_kdd.SCHEMA)
    assert (len(table), [row.line for row in refused]) == (3, [1])


def test_what_cannot_begin_is_said_at_once(tmp_path):
    with pytest.raises(DataError, match="There is none"):
        stream(tmp_path / "none.txt", nsl_kdd.SCHEMA)
    with pytest.raises(DataError, match=r"rows of 41 to 43 cells. It lacks duration, .* and 36 more"):
        stream(written(tmp_path / "a.txt", "a,b"), nsl_kdd.SCHEMA)
    for chunk in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="'chunk' parameter must be an int in the range"):
            stream(tmp_path / "a.txt", nsl_kdd.SCHEMA, chunk)

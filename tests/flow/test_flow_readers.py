"""Published files of flows, in every form they come in: columns arrive where they belong, and errors say where."""

import gzip

import numpy as np
import pytest
from flows import (
    CIC_HEADER,
    NSL_KDD,
    UNSW_HEADER,
    UNSW_ROW,
    cic_row,
    needs_nsl_kdd,
    needs_unsw_nb15,
    real,
    written,
)

from sparring.domains.flow import chunks, cic_ddos2019, nsl_kdd, unsw_nb15
from sparring.domains.flow.check import holds, understood
from sparring.domains.flow.layout import DataError
from sparring.domains.flow.published import LAYOUTS
from sparring.domains.flow.read import find, read
from sparring.domains.flow.schema import Field, Schema
from sparring.domains.flow.stream import stream


def same(a, b):
    return a.labels.tolist() == b.labels.tolist() and all(
        np.array_equal(a.columns[name], b.columns[name]) for name in a.schema.names
    )


def unsw_rows(*cats):
    return [UNSW_ROW.format(id=k, cat=cat, label=int(cat != "Normal")) for k, cat in enumerate(cats, 1)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_relation_of_a_published_schema_can_be_read(name):
    schema = LAYOUTS[name].schema
    for relation in schema.relations:
        understood(relation, schema)
    assert schema.name == name
    for module in (nsl_kdd, unsw_nb15):
        for relation in (*module.SOFT, *getattr(module, "FALSE", ())):
            understood(relation, module.SCHEMA)


def test_nsl_kdd_is_read_by_position(tmp_path):
    (table,) = read(written(tmp_path / "any.txt", *NSL_KDD))
    assert table.schema == nsl_kdd.SCHEMA
    assert len(table.schema.fields) == 41
    assert table.columns["src_bytes"].tolist() == [215, 0, 1032]
    assert table.columns["src_bytes"].dtype == np.float64
    assert table.columns["protocol_type"].tolist() == ["tcp", "tcp", "icmp"]
    assert table.columns["dst_host_srv_rerror_rate"].tolist() == [0, 0, 0]
    assert table.columns["dst_host_serror_rate"].tolist() == [0, 1, 0]
    assert table.labels.tolist() == ["normal", "neptune", "smurf"]
    assert table.malicious.tolist() == [False, True, True]
    assert nsl_kdd.classes(table.labels).tolist() == ["normal", "dos", "dos"]


@pytest.mark.parametrize("quick", [True, False])
def test_nsl_kdd_with_a_header_and_without_difficulty_and_packed_is_the_same(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(chunks, "has_pyarrow", lambda: quick)
    (plain,) = read(written(tmp_path / "a.txt", *NSL_KDD))
    bare = [row.rsplit(",", 1)[0] for row in NSL_KDD]
    names = ",".join((*nsl_kdd.SCHEMA.names, "class"))
    assert same(plain, read(written(tmp_path / "b.csv", *bare))[0])
    assert same(plain, read(written(tmp_path / "c.csv", names, *bare))[0])
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress("\ufeff".encode() + "\r\n".join(NSL_KDD).encode()))
    assert same(plain, read(tmp_path / "d.txt.gz")[0])


def arff(relation="'KDDTest+'", words="{'tcp','udp', 'icmp'}"):
    lines = ["% a comment", "", f"@RELATION {relation}"]
    for field in nsl_kdd.FIELDS:
        kinds = {"protocol_type": words, "service": "{http,private,'ecr_i'}", "flag": '{"SF",S0}'}
        lines.append(f"@attribute '{field.name}' {kinds.get(field.name, 'real')}")
    return [*lines, "@attribute 'class' {'normal', 'anomaly'}", "@data"]


def test_nsl_kdd_as_arff_has_the_same_columns_and_its_own_labels(tmp_path):
    rows = [f"{row.rsplit(',', 2)[0]},{'normal' if k == 0 else 'anomaly'}" for k, row in enumerate(NSL_KDD)]
    (plain,) = read(written(tmp_path / "a.txt", *NSL_KDD))
    (table,) = read(written(tmp_path / "a.arff", *arff(), rows[0], "% in between", "", *rows[1:]))
    assert table.labels.tolist() == ["normal", "anomaly", "anomaly"]
    assert all(np.array_equal(table.columns[name], plain.columns[name]) for name in table.schema.names)
    with pytest.raises(ValueError, match="Got anomaly"):
        nsl_kdd.classes(table.labels)


def test_arff_cells_may_be_quoted_and_escaped(tmp_path):
    row = NSL_KDD[0].rsplit(",", 2)[0].replace("tcp", r"'t\'c,p'").replace("http", '"http"') + ",'normal'"
    (table,) = read(written(tmp_path / "a.arff", *arff(words=r"{'t\'c,p', udp}"), row))
    assert table.columns["protocol_type"].tolist() == ["t'c,p"]
    assert table.columns["service"].tolist() == ["http"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*arff(), "{0 5, 3 SF}"], "dense ARFF file"),
        ([*arff()[:-1]], "no @data"),
        (["@relation x", "@attribute 'a"], "line 2: must be @relation, @attribute or @data"),
        (["@relation x", "@attribute a date"], "line 2: the type of 'a' must be"),
        (["@relation x", "@attribute a {'b}"], "line 2: the words cannot be read"),
    ],
)
def test_arff_that_cannot_be_read_says_where(tmp_path, lines, message):
    path = written(tmp_path / "a.arff", *lines)
    with pytest.raises(DataError, match=message):
        read(path, schema=nsl_kdd.SCHEMA)


def test_arff_words_must_be_those_of_the_header(tmp_path):
    row = NSL_KDD[0].rsplit(",", 2)[0].replace("tcp", "sctp") + ",normal"
    path = written(tmp_path / "a.arff", *arff(), row)
    with pytest.raises(DataError, match=r"line 47: 'protocol_type' must be a word that the file declares. Got 'sctp'"):
        read(path)


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_unsw_nb15_is_read_by_name_with_or_without_a_byte_order_mark(tmp_path, bom):
    lines = [UNSW_HEADER, *unsw_rows("Normal", "Fuzzers")]
    (tmp_path / "u.csv").write_bytes(bom + "\r\n".join(lines).encode())
    (table,) = read(tmp_path / "u.csv")
    assert table.schema == unsw_nb15.SCHEMA
    assert len(table.schema.fields) == 42
    assert table.labels.tolist() == ["Normal", "Fuzzers"]
    assert table.malicious.tolist() == [False, True]
    assert table.columns["smean"].tolist() == [100, 100]
    assert table.columns["is_sm_ips_ports"].tolist() == [0, 0]


def test_unsw_nb15_has_two_namings_and_labels_of_two_spellings(tmp_path):
    other = UNSW_HEADER
    for ours, theirs in (
        ("smean", "smeansz"),
        ("dmean", "dmeansz"),
        ("response_body_len", "res_bdy_len"),
        ("sinpkt", "Sintpkt"),
        ("dinpkt", "Dintpkt"),
        ("sload", "Sload"),
        ("spkts", "Spkts"),
        ("ct_src_ltm", "ct_src_ ltm"),
    ):
        assert f",{ours}," in other
        other = other.replace(f",{ours},", f",{theirs},")
    (ours,) = read(written(tmp_path / "a.csv", UNSW_HEADER, *unsw_rows("Normal", "Backdoor")))
    (theirs,) = read(written(tmp_path / "b.csv", other, *unsw_rows("", " Backdoors ")))
    assert same(ours, theirs)


def test_unsw_nb15_as_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    path = written(tmp_path / "u.csv", UNSW_HEADER, *unsw_rows("Normal", "Fuzzers", "Exploits"))
    parquet.write_table(csv.read_csv(path), tmp_path / "u.parquet")
    assert same(read(path)[0], read(tmp_path / "u.parquet")[0])
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="must be a parquet file"):
        read(tmp_path / "damaged.parquet", schema=unsw_nb15.SCHEMA)


def test_the_larger_table_of_unsw_nb15_is_the_training_table_whatever_it_is_called(tmp_path):
    folder = tmp_path / "UNSW-NB15"
    folder.mkdir()
    written(folder / "UNSW_NB15_training-set.csv", UNSW_HEADER, *unsw_rows("Normal"))
    written(folder / "UNSW_NB15_testing-set.csv", UNSW_HEADER, *unsw_rows("Normal", "Worms"))
    assert [len(table) for table in read("unsw-nb15", tmp_path)] == [2, 1]
    assert [len(table) for table in read("unsw-nb15", folder)] == [2, 1]
    assert [len(table) for table in read(folder)] == [2, 1]


def test_cic_ddos2019_names_lose_their_blanks_and_undefined_rates_are_zero(tmp_path):
    rows = [cic_row(), cic_row(duration=0), cic_row(duration=0, per_second="NaN", label="BENIGN")]
    (table,) = read(written(tmp_path / "DrDoS_DNS.csv", CIC_HEADER, *rows))
    assert table.schema == cic_ddos2019.SCHEMA
    assert table.columns["protocol"].tolist() == ["17"] * 3
    assert table.columns["flow_bytes_s"].tolist() == [150e6, 0, 0]
    assert table.columns["flow_packets_s"].tolist() == [5e5, 0, 0]
    assert table.columns["fwd_header_length"].tolist() == [-2] * 3
    assert table.malicious.tolist() == [True, True, False]
    for relation in table.schema.relations:
        assert holds(relation, table).all(), relation
    assert find("cic-ddos2019", _set(tmp_path)) == (tmp_path / "CIC-DDoS2019" / "01-12" / "DrDoS_DNS.csv",)


def _set(root):
    folder = root / "CIC-DDoS2019" / "01-12"
    folder.mkdir(parents=True)
    (root / "DrDoS_DNS.csv").rename(folder / "DrDoS_DNS.csv")
    written(folder / "notes.csv", "another,file")
    return root


def test_infinity_in_a_flow_that_lasts_is_an_error(tmp_path):
    path = written(tmp_path / "a.csv", CIC_HEADER, cic_row(), cic_row(per_second="Infinity"))
    with pytest.raises(DataError, match=r"a.csv, line 3: 'flow_bytes_s' must be a number in the range \[0, inf\)"):
        read(path)


@pytest.mark.parametrize(
    ("at", "cell", "reason"),
    [
        (4, "-1", r"'src_bytes' must be an integer in the range \[0, inf\). Got '-1'"),
        (4, "1.5", "'src_bytes' must be an integer"),
        (6, "2", "'land' must be 0 or 1. Got '2'"),
        (22, "512", r"'count' must be an integer in the range \[0, 511\]. Got '512'"),
        (24, "1.01", r"'serror_rate' must be a number in the range \[0, 1\]. Got '1.01'"),
        (24, "", "'serror_rate' must be a number"),
        (24, "1_0", "'serror_rate' must be a number"),
        (41, "", "'label' must be a word"),
    ],
)
def test_a_malformed_row_names_file_line_column_value_and_constraint(tmp_path, at, cell, reason):
    cells = NSL_KDD[1].split(",")
    cells[at] = cell
    path = written(tmp_path / "a.txt", NSL_KDD[0], ",".join(cells), NSL_KDD[2])
    with pytest.raises(DataError, match=rf"a.txt, line 2: {reason}"):
        read(path)


def test_a_file_that_is_none_of_them_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("SPARRING_DATA", raising=False)
    with pytest.raises(DataError, match=r"must have the columns of one of nsl-kdd"):
        read(written(tmp_path / "a.csv", "a,b", "1,2"))
    with pytest.raises(DataError, match=r"It lacks rate\. Its first line has 44 cells"):
        read(written(tmp_path / "b.csv", UNSW_HEADER.replace(",rate", "")), schema=unsw_nb15.SCHEMA)
    with pytest.raises(DataError, match="Looked in\n  nowhere: no root was given and SPARRING_DATA is not set"):
        read("nsl-kdd")
    with pytest.raises(DataError, match=r"Put KDDTrain.* in <root>/nsl_kdd"):
        read("nsl-kdd", tmp_path)
    with pytest.raises(DataError, match="Got 'nothing-here'"):
        read("nothing-here")
    with pytest.raises(DataError, match="at least one row"):
        read(written(tmp_path / "c.csv", UNSW_HEADER))
    with pytest.raises(DataError, match="must hold the files of"):
        read(tmp_path)


def test_two_columns_that_may_be_one_field_are_refused(tmp_path):
    schema = Schema("ours", (Field("bytes_out", "integer"), Field("kind", "category")))
    path = written(tmp_path / "a.csv", "Bytes Out,bytes-out,kind", "1,2,x")
    with pytest.raises(DataError, match="Both 'Bytes Out' and 'bytes-out' may be 'bytes_out'"):
        read(path, schema=schema)
    (table,) = read(written(tmp_path / "b.csv", "Bytes Out,bytes_out,kind", "1,2,x"), schema=schema)
    assert table.columns["bytes_out"].tolist() == [2]
    assert len(table.labels) == 0


def test_a_damaged_archive_says_so(tmp_path):
    whole = gzip.compress(("\n".join(NSL_KDD * 3000)).encode())
    (tmp_path / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a.txt.gz.* is damaged"):
        list(stream(tmp_path / "a.txt.gz", nsl_kdd.SCHEMA))


@needs_nsl_kdd
def test_real_nsl_kdd():
    train, test = real("nsl-kdd")
    if len(train) != 25192:
        pytest.skip("the training file is not the fifth of it, which these counts are of")
    counts = [[int((nsl_kdd.classes(t.labels) == k).sum()) for k in ("dos", "normal")] for t in (train, test)]
    assert counts == [[9234, 13449], [7460, 9711]]
    assert train.malicious.sum() == 25192 - 13449
    dos = np.array([name for name in set(test.labels) if nsl_kdd.ATTACKS.get(name) == "dos"])
    unseen = np.isin(test.labels.astype(str), dos) & ~np.isin(test.labels.astype(str), train.labels.astype(str))
    names, numbers = np.unique(test.labels[unseen].astype(str), return_counts=True)
    assert unseen.sum() == 1719
    assert dict(zip(names.tolist(), numbers.tolist(), strict=True)) == {
        "apache2": 737,
        "mailbomb": 293,
        "processtable": 685,
        "udpstorm": 2,
        "worm": 2,
    }


@needs_unsw_nb15
def test_real_unsw_nb15(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    from pyarrow import parquet

    table = real("unsw-nb15")[-1]
    if len(table) != unsw_nb15.ROWS[1]:
        pytest.skip("the file at hand is not that of 82,332 rows")
    assert (~table.malicious).sum() == 37000
    assert set(table.labels) == {"Normal", *unsw_nb15.CATEGORIES}
    assert table.columns["sbytes"].max() == 14_355_774
    columns = {name: pa.array(table.columns[name]) for name in table.schema.names}
    parquet.write_table(pa.table({**columns, "attack_cat": pa.array(table.labels)}), tmp_path / "u.parquet")
    assert same(table, read(tmp_path / "u.parquet")[0])

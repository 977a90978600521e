"""Labelled texts from files: every format gives the same, and what is broken is said by row and column."""

import json

import pytest
import torch
from texts import DATA, TOKENIZER, needs_texts

from sparring.domains.text.data import NAMES, DataError, Encoded, load
from sparring.domains.text.records import read

ROWS = [
    *(("A fine film", "good"), ('She said "so, so"', "good"), ("Bad\\n", "bad"), ("שלום 👩‍🚀", "bad"), ("", "good")),
    *((f"film {k}", "good" if k < 6 else "bad") for k in range(10)),
]


def written(folder, ending, rows=ROWS, header=("Text", "label")):
    path = folder / f"texts.{ending}"
    if ending == "tsv":
        path.write_text("\n".join("\t".join(row) for row in (header, *rows)) + "\n", encoding="utf-8")
    elif ending == "csv":
        cells = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in (header, *rows)]
        path.write_text("\r\n".join(cells) + "\r\n", encoding="utf-8-sig")
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in rows), encoding="utf-8")
    elif ending == "json":
        path.write_text(json.dumps([dict(zip(header, row, strict=True)) for row in rows]))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = list(zip(*rows, strict=True))
        pq.write_table(pa.table(dict(zip(header, map(list, columns), strict=True))), path)
    return path


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl", "json", "parquet"])
def test_every_format_gives_the_same_texts_and_classes(tmp_path, ending):
    data = load(written(tmp_path, ending))
    assert data.classes == ("bad", "good")
    assert (len(data.train), len(data.validation), len(data.test)) == (13, 0, 2)
    assert data.name == "texts"
    assert data.aside == ()
    first = 1 if ending in ("jsonl", "json", "parquet") else 2
    for part in (data.train, data.test):
        for string, y, row in zip(part.strings, part.y.tolist(), part.rows.tolist(), strict=True):
            assert (string, data.classes[y]) == ROWS[row - first]
    assert sorted([*data.train.rows.tolist(), *data.test.rows.tolist()]) == list(range(first, 15 + first))
    again = load(written(tmp_path, "tsv"))
    assert data.fingerprint == again.fingerprint
    assert data.fingerprint != load(written(tmp_path, ending, [*ROWS, ("more", "bad")])).fingerprint


def test_no_text_is_in_both_parts_of_a_set_that_comes_as_one(tmp_path):
    data = load(written(tmp_path, "tsv", [(f"text {k % 20}", "ab"[k % 2]) for k in range(100)]))
    assert not set(data.train.strings) & set(data.test.strings)
    assert data.test.y.bincount().tolist() == [10, 10]
    assert (len(data.train), len(data.test)) == (80, 20)
    with pytest.raises(DataError, match="at least 5 texts of a class"):
        load(written(tmp_path, "tsv", [("same", "a"), ("other", "b")] * 50))


def test_a_folder_has_its_splits(tmp_path):
    for name, rows in (("train", ROWS), ("dev", ROWS[:4]), ("test", ROWS[3:])):
        written(tmp_path, "csv", rows).rename(tmp_path / f"{name}.csv")
    data = load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (15, 4, 12)
    (tmp_path / "test.csv").unlink()
    assert len(load(tmp_path).test) == 4
    assert len(load(tmp_path).validation) == 0
    (tmp_path / "train.csv").rename(tmp_path / "training.csv")
    with pytest.raises(DataError, match=r"a file named train .* It holds dev\.csv, training.csv"):
        load(tmp_path)


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl"])
def test_bytes_that_are_not_utf8_are_set_aside_by_row(tmp_path, ending):
    path = written(tmp_path, ending, [*ROWS, ("caf\u00e9 XX", "good"), ("last", "bad")])
    path.write_bytes(path.read_bytes().replace(b"XX", b"\xe9\xff"))
    data = load(path)
    (aside,) = data.aside
    assert (aside.row, aside.reason) == (16 if ending == "jsonl" else 17, "is not UTF-8")
    assert len(data.train) + len(data.test) == 16
    assert "last" in (*data.train.strings, *data.test.strings)


def test_bytes_that_are_not_utf8_in_parquet_are_set_aside_by_row(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.array([part + b"%d" % k for k in range(5) for part in (b"fine", b"caf\xe9", b"bad")], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 15, pa.array(texts, pa.binary()).buffers())
    pq.write_table(pa.table({"text": bad, "label": [1, 0, 0] * 5}), tmp_path / "texts.parquet")
    data = load(tmp_path / "texts.parquet")
    assert [each.row for each in data.aside] == [2, 5, 8, 11, 14]
    assert len(data.train) + len(data.test) == 10
    assert data.classes == ("0", "1")


def test_rows_without_text_or_label_and_of_another_length_are_set_aside(tmp_path):
    path = written(tmp_path, "tsv", [*ROWS, ("no label", " "), ("one", "cell", "more"), ("alone",)])
    assert [(each.row, each.reason) for each in load(path).aside] == [
        *((18, "has 3 cells instead of 2"), (19, "has 1 cells instead of 2"), (17, "has no label"))
    ]
    path = written(tmp_path, "jsonl")
    more = ['{"Text": 5, "label": "bad"}', "[1]", "{", '{"Text": "x"}', '{"Text": "\\ud83d", "label": "bad"}']
    path.write_text(path.read_text() + "\n" + "\n".join(more))
    found = sorted((each.row, each.reason.partition(":")[0]) for each in load(path).aside)
    reasons = ["has no text", "is no object", "is not JSON", "has no label", "is not UTF-8"]
    assert found == list(zip(range(16, 21), reasons, strict=True))


def test_columns_are_named_where_they_are_missing(tmp_path):
    with pytest.raises(
        DataError, match=r"a column for the text, one of text, sentence, .*\. Its columns are: words, label"
    ):
        load(written(tmp_path, "csv", header=("words", "label")))
    with pytest.raises(DataError, match=r"a column for the label, one of label, .*\. Its columns are: text, kind"):
        load(written(tmp_path, "jsonl", header=("text", "kind")))
    with pytest.raises(DataError, match=r"a column for the label, 'nothing'\. Its columns are: text, kind"):
        load(written(tmp_path, "parquet", header=("text", "kind")), label="nothing")
    assert load(written(tmp_path, "parquet", header=("words", "kind")), text="words", label="kind").classes[0] == "bad"


def test_a_test_label_that_was_never_trained_on_is_refused(tmp_path):
    written(tmp_path, "tsv").rename(tmp_path / "train.tsv")
    written(tmp_path, "tsv", [*ROWS, ("odd", "strange")]).rename(tmp_path / "test.tsv")
    with pytest.raises(DataError, match=r"test.tsv, row 17: .* bad, good\. Got 'strange'"):
        load(tmp_path)


def test_labels_that_cannot_be_classes_are_refused(tmp_path):
    with pytest.raises(DataError, match="differ by case only: 'Good' and 'good'"):
        load(written(tmp_path, "tsv", [*ROWS, ("x", "Good")]))
    with pytest.raises(DataError, match=r"at least two classes\. Got good"):
        load(written(tmp_path, "tsv", [row for row in ROWS if row[1] == "good"]))
    with pytest.raises(DataError, match=r"at least two classes\. Got none"):
        load(written(tmp_path, "tsv", []))
    numbers = load(written(tmp_path, "tsv", [(f"x {k}", str(k % 12)) for k in range(60)]))
    assert numbers.classes == tuple(map(str, range(12)))  # by value, not by spelling


def test_what_is_no_data_is_refused(tmp_path):
    with pytest.raises(DataError, match="Did you mean 'sst2'"):
        load("sst-2")
    (tmp_path / "x.txt").write_text("text\n")
    with pytest.raises(DataError, match=r"must be one of \.tsv"):
        load(tmp_path / "x.txt")
    for name, data, message in (
        ("x.parquet", b"PAR1", "must be a parquet file"),
        ("x.json", b"{}", "a list of objects"),
        ("x.json", b"\xff", "JSON in UTF-8"),
        ("x.csv", b'text,label\na,b\n"open,b\n', "line 3: must be a row of CSV"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=message):
            load(tmp_path / name)
    with pytest.raises(DataError, match=r"Looked in\n.*text_sst2\n"):
        load("sst2", tmp_path)


def test_lines_of_quoted_cells_are_counted(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('text,label\n"two\nlines",a\nplain,b\n\nlast,a\n')
    assert [(number, row["text"]) for number, row in read(path).rows] == [(2, "two\nlines"), (4, "plain"), (6, "last")]


def test_class_names_of_the_hub_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = {"info": {"features": {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}}
    table = pa.table({"text": list("abcdefghij"), "label": [1, 0] * 5})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), tmp_path / "x.parquet")
    assert load(tmp_path / "x.parquet").classes == ("neg", "pos")


def test_the_hub_s_own_loader(tmp_path, monkeypatch):
    import datasets

    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["n", "p"])})
    split = datasets.Dataset.from_dict({"sentence": ["a", "b", ""], "label": [1, 0, 1]}, features=features)
    secret = datasets.Dataset.from_dict({"sentence": ["a"], "label": [-1]})
    loaded = datasets.DatasetDict({"train": split, "validation": split, "test": secret})
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config: loaded)
    data = load("hf:glue:sst2")
    assert data.classes == ("n", "p")
    assert data.train.strings == data.test.strings == ("a", "b", "")
    assert data.train.y.tolist() == [1, 0, 1]
    assert len(data.validation) == 0
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config: datasets.DatasetDict({"test": split}))
    with pytest.raises(DataError, match="a split named train"):
        load("hf:glue")


LONG = [(f"a fine {word}", "a") for word in ("film", "plot", "one", "two", "three", "four")] + [("", "a"), ("bad", "b")]
LONG += [("a " * 9 + "!" * k, "b") for k in range(6)]


def test_encoded_texts_are_a_source_of_batches_and_say_what_is_cut(tmp_path):
    data = load(written(tmp_path, "tsv", LONG))
    source = Encoded(data.train, TOKENIZER, 5)
    assert source.ids.shape == (len(data.train), 5)
    assert torch.equal(source.y, data.train.y)
    short = torch.tensor([k for k, string in enumerate(data.train.strings) if len(string) < 16])
    ids, y = source.take(short)
    assert ids.shape == (len(short), 3)
    assert torch.equal(y, data.train.y[short])
    assert (ids != 0).any(1).all()
    assert source.truncated.tolist() == [k for k in range(len(source)) if k not in short.tolist()]
    assert len(source.truncated) >= 4
    assert len(source) == len(data.train)


@needs_texts
@pytest.mark.parametrize(
    ("name", "sizes", "classes", "first"),
    [
        ("sst2", (6920, 872, 1821), ("negative", "positive"), "a stirring , funny and finally"),
        ("agnews", (12000, 0, 7600), ("world", "sports", "business", "sci/tech"), "Apache, open-source"),
        ("sms-spam", (4452, 0, 1122), ("ham", "spam"), "Go until jurong"),
        ("hate-forum", (7071, 987, 1999), ("noHate", "hate"), "But if White"),
        ("tweeteval-emotion", (3257, 374, 1421), ("anger", "joy", "optimism", "sadness"), "“Worry is"),
        ("sst2-style-tweets", (6805, 0, 872), ("negative", "positive"), ""),
    ],
)
def test_published_sets(name, sizes, classes, first):
    data = load(name, DATA)
    assert (len(data.train), len(data.validation), len(data.test)) == sizes
    assert data.classes == classes
    assert data.train.strings[0].startswith(first)
    assert data.aside == ()
    assert name in NAMES
    if name == "agnews":  # labels of the two files differ by one: the test's first row is about pensions
        assert (data.test.strings[0][:15], int(data.test.y[0])) == ("Fears for T N p", 2)
        assert data.test.y.bincount().tolist() == [1900] * 4
        assert "\\" not in "".join(data.test.strings)

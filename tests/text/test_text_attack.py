"""`sparring attack text`: what falls and to what, rows that cannot be used, and files that are whole or absent."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.cli import main
from sparring.domains.text import models
from sparring.domains.text.artefact import FILE, Classifier, load
from sparring.domains.text.tokens import WordTokenizer
from sparring.report import text_diffs

LEAN = {
    "great": 1.0,
    "good": 0.9,
    "fine": 0.5,
    "meh": -0.4,
    "poor": -0.8,
    "awful": -1.0,
    "a": 0.0,
    "film": 0.0,
    "the": -0.1,
    "was": -3.0,
}
TABLE = "great good meh\ngood fine\nawful poor fine\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A run folder with a classifier whose answer is the sign of the mean lean of a text's words."""
    tokenizer = WordTokenizer(tuple(LEAN))
    bow = models.build("bow", tokenizer.vocab_size, 2)
    state = {name: torch.zeros_like(each) for name, each in bow.state_dict().items()}
    state["embedding.weight"][2:, 0] = torch.tensor(list(LEAN.values()))
    state["layers.1.weight"][:2, 0] = torch.tensor([1.0, -1.0])
    state["layers.3.weight"][:, :2] = torch.tensor([[0.0, 10.0], [10.0, 0.0]])
    bow.load_state_dict(state)
    folder = tmp_path / "run"
    folder.mkdir()
    classifier = Classifier("bow", bow.eval(), tokenizer, ("bad", "good"), 16)
    (folder / FILE).write_bytes(classifier.to_bytes())
    (tmp_path / "table.tsv").write_text(TABLE)
    return folder


def attack(model: Path, content: str | bytes, *more: str, name: str = "in.csv") -> int:
    path = model.parent / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    given = ["attack", "text", str(model), "--input", str(path), "--neighbours", str(model.parent / "table.tsv")]
    return main([*given, *more])


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


SUBSTITUTION = ("--attacks", "greedy-deletion", "--words", "1.0")


def test_what_falls_falls_to_the_best_substitute_and_is_marked(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = "text,label\na great film,good\na good film,1\na awful film,BAD\na poor film,good\n"
    assert attack(model, content, *SUBSTITUTION) == 0
    rows = table(model / "attacked.csv")
    assert [row["outcome"] for row in rows] == ["fell", "stands", "fell", "wrong"]
    assert [row["line"] for row in rows] == ["2", "3", "4", "5"]
    assert rows[0]["marked"] == "a [great→meh] film"
    assert (rows[0]["answer_before"], rows[0]["answer_after"], rows[0]["words_changed"]) == ("good", "bad", "1")
    assert float(rows[0]["score_before"]) == pytest.approx(torch.sigmoid(torch.tensor(10 / 3)).item(), abs=1e-4)
    assert float(rows[0]["score_after"]) == pytest.approx(torch.sigmoid(torch.tensor(-4 / 3)).item(), abs=1e-4)
    assert rows[1]["attacked"] == "a fine film"  # the nearest it came
    assert rows[3] | {"attack": "", "queries": "0", "attacked": "a poor film"} == rows[3]
    assert "4 texts, 3 right, 1 right whichever attack is tried" in capsys.readouterr().out


def test_the_attack_with_the_fewest_changes_decides_then_the_fewest_queries_then_the_first(model: Path) -> None:
    content = "text,label\na great great film,good\na great film,good\n"
    assert attack(model, content, "--attacks", "greedy-deletion", "append", "--words", "1.0") == 0
    first, second = table(model / "attacked.csv")
    assert (first["attack"], first["words_changed"], first["marked"]) == ("append", "1", "a great great film[→ was]")
    assert (second["attack"], second["words_changed"]) == ("greedy-deletion", "1")
    told = {}
    for name in ("greedy-deletion", "append"):
        assert attack(model, content, "--attacks", name, "--words", "1.0") == 0
        told[name] = [(int(row["words_changed"]), int(row["queries"])) for row in table(model / "attacked.csv")]
    # the two deletions of `great` are one text, asked about once
    assert told == {"greedy-deletion": [(2, 6), (1, 3)], "append": [(1, 3), (1, 3)]}
    assert attack(model, content, "--attacks", "characters", "append", "--words", "1.0") == 0
    (_, second) = table(model / "attacked.csv")
    assert (second["attack"], second["queries"]) == ("append", "3")  # a misspelling of `great` needs one word as well


def test_rows_that_cannot_be_used_are_set_aside_with_reasons(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = b'text,label\na great film,good\nshort\n,good\na good film,7\n"bad \xff bytes",bad\na awful film,bad\n'
    assert attack(model, content, *SUBSTITUTION) == 0
    assert [row["line"] for row in table(model / "attacked.csv")] == ["2", "7"]
    aside = {row["line"]: row["reason"] for row in table(model / "refused.csv")}
    assert set(aside) == {"3", "4", "5", "6"}
    assert aside["3"] == "has 1 cells instead of 2"
    assert aside["4"] == "has no words"
    assert "which is none of bad, good" in aside["5"]
    assert aside["6"] == "is not UTF-8"
    assert "4 rows cannot be used" in capsys.readouterr().err


def test_without_labels_what_the_model_says_is_right(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert attack(model, '{"text": "a poor film"}\n{"text": "a great film"}\n', *SUBSTITUTION, name="in.jsonl") == 0
    rows = table(model / "attacked.csv")
    assert [(row["label"], row["outcome"]) for row in rows] == [("bad", "stands"), ("good", "fell")]
    assert "The file has no labels" in capsys.readouterr().err


def test_a_threshold_decides_where_there_is_one(model: Path) -> None:
    """`a great film` is good with probability 0.966: not enough for a threshold of 0.99, enough for one of 0.9."""
    loaded = load(model / FILE)
    content = "text,label\na great film,good\na great great film,good\n"
    for threshold, outcomes in ((0.99, ["wrong", "fell"]), (0.9, ["fell", "fell"])):
        (model / FILE).write_bytes(replace(loaded, threshold=threshold).to_bytes())
        assert attack(model, content, *SUBSTITUTION) == 0
        rows = table(model / "attacked.csv")
        assert [row["outcome"] for row in rows] == outcomes
        assert [row["words_changed"] for row in rows] == ["0" if outcome == "wrong" else "1" for outcome in outcomes]


def test_what_cannot_be_written_as_it_is_survives(model: Path) -> None:
    odd = "שלום great 👩‍👩‍👧 =cmd|x <b>"
    assert attack(model, f'text,label\n"{odd}",good\n', *SUBSTITUTION) == 0
    (row,) = table(model / "attacked.csv")
    assert (row["original"], row["attacked"]) == (odd, odd.replace("great", "meh"))
    page = (model / "attacked.html").read_text()
    assert "<b>" not in page.split("</style>")[1].replace("<b>A</b>", "")


def test_the_page_and_the_kept_texts_tell_the_same(model: Path) -> None:
    assert attack(model, "text,label\na great film,good\na good film,good\n", *SUBSTITUTION) == 0
    page = (model / "attacked.html").read_text()
    assert "a <del>great</del><ins>meh</ins> film" in page
    assert "script" not in page.split("</style>")[1]
    kept = text_diffs.read(model)
    assert [(each.result, each.attacked) for each in kept] == [("fell", "a meh film"), ("stands", "a fine film")]


def test_a_budget_of_queries_is_kept_and_the_summary_is_one_object(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["greedy-deletion", "greedy-saliency", "greedy-gradient", "hotflip", "random", "characters", "append"]
    content = "text,label\na great film the great film,good\n"
    assert attack(model, content, "--attacks", *names, "--queries", "4", "--json") == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert set(told["attacks"]) == set(names)
    assert all(each["queries"] <= 4 for each in told["attacks"].values())
    assert {each["verdict"] for each in told["checks"]} == {"pass"}
    assert (told["texts"], told["right"]) == (1, 1)


def test_the_same_command_writes_the_same_bytes(model: Path) -> None:
    content = "text,label\na great film,good\na awful awful film,bad\n"
    files = []
    for _ in range(2):
        assert attack(model, content, "--attacks", "random", "characters") == 0
        files.append([(model / name).read_bytes() for name in ("attacked.csv", "attacked.html", text_diffs.FILE)])
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--attacks", "magic"), "--attacks must be some of greedy-deletion"),
        (("--words", "0"), "'words' parameter must be a number in the range (0, 1]"),
        (("--queries", "0"), "'queries' parameter must be an int in the range [1, inf)"),
        (("--label", "nothing"), "must have a column for the label, 'nothing'"),
        (("--out", "{in}"), "--input and --out must be different files"),
        (("--page", "{model}"), "MODEL and --page must be different files"),
        (("--neighbours", "nowhere.tsv"), "nowhere.tsv cannot be read"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    model: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], says: str
) -> None:
    places = {"in": model.parent / "in.csv", "model": model / FILE}
    before = (model / FILE).read_bytes()
    try:
        code: object = attack(model, "text,label\na great film,good\n", *(each.format(**places) for each in more))
    except SystemExit as stop:  # of a flag that cannot be
        code = stop.code
    assert code == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in model.iterdir()) == [FILE]
    assert (model / FILE).read_bytes() == before


def test_files_without_a_usable_row_and_models_that_are_none_are_refused(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attack(model, "text,label\na great film,9\n") == 2
    assert "at least one row that can be used. Got none. The first row set aside, row 2" in capsys.readouterr().err
    (model / FILE).write_bytes(b"nothing")
    assert attack(model, "text,label\na great film,good\n") == 2
    assert "is not a whole safetensors file" in capsys.readouterr().err


def test_the_kinds_of_attack_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attack"]) == 2
    assert main(["attack", "--help"]) == 0
    assert "text    texts of a file" in capsys.readouterr().out
    assert main(["attack", "pictures"]) == 2
    assert "needs one of text first. Got 'pictures'" in capsys.readouterr().err

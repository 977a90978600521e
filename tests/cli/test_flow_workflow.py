"""A table of one's own through the whole door: schema, train, evaluate, report, score; and a page with images too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparring.cli import main
from sparring.commands import flow_attacks, flow_bench, flow_evaluate
from sparring.domains.flow.data import load
from sparring.domains.flow.declared import declared

SCHEMA = """
name = "cards"
label = "kind"
benign = ["honest"]
relations = ["largest <= total", "foreign == 0 => countries == 1"]

[[field]]
name = "payments"
kind = "integer"
change = "up"
low = 1

[[field]]
name = "total"
kind = "real"
change = "up"
log = true

[[field]]
name = "largest"
kind = "real"
change = "free"
log = true

[[field]]
name = "countries"
kind = "integer"
low = 1

[[field]]
name = "foreign"
kind = "flag"
high = 1
"""


def cards(n: int = 400) -> list[str]:
    rng = np.random.default_rng(0)
    kinds = rng.choice(["honest", "stolen", "skimmed"], n, p=[0.6, 0.2, 0.2])
    lines = ["payments,total,largest,countries,foreign,kind"]
    for kind in kinds:
        bad = kind != "honest"
        payments, foreign = int(rng.integers(1, 8)), int(rng.random() < 0.1 + 0.6 * bad)
        total = round(float(payments * np.exp(rng.normal(3 + 2 * bad, 0.5))), 2)
        largest = round(total * rng.uniform(1 / payments, 1), 2)
        lines.append(f"{payments},{total},{largest},{1 + foreign},{foreign},{kind}")
    return lines


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, its schema and two detectors; one of them evaluated."""
    place = tmp_path_factory.mktemp("cards")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(flow_attacks, "STEPS", 8)
        patch.setattr(flow_bench, "GENERATOR_STEPS", 3)
        patch.setattr(flow_bench, "IDSGAN_STEPS", 3)
        Path("cards.csv").write_text("\n".join(cards()) + "\n")
        Path("cards.toml").write_text(SCHEMA)
        common = ["--data", "cards.csv", "--schema", "cards.toml", "--epochs", "3", "--steps", "2", "--device", "cpu"]
        for name in ("one", "two"):
            assert main(["train", "ddos", *common, "--run", name]) == 0
        assert main(["evaluate", "one", "--examples", "30", "--queries", "10"]) == 0
    return place


def record(place: Path, run: str = "one") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / run / "record.json").read_text())
    return found


def test_the_record_holds_the_evaluation(place: Path) -> None:
    facts = record(place)
    found = facts["evaluation"]
    assert facts["data"]["schema"] == "cards"
    assert facts["data"]["kinds"] == []
    assert facts["source"] == str(place / "cards.csv")
    assert found["n"] == 30
    assert found["results"]["worst"]["n"] == 30
    assert found["command"] == "sparring evaluate one --examples 30 --queries 10"
    assert set(found["kinds"]) == set(found["names"]) == {"stolen", "skimmed"}
    assert found["eps_grid"][1]["eps"] == facts["config"]["eps"] == 0.1
    assert {check["name"]: check["verdict"] for check in found["checks"]}["feasible"] == "pass"
    assert found["threat"]["fields"]["up"] == ["payments", "total"]
    assert "@article" in facts["method"]["citation"]
    assert (place / "one" / "outcomes.safetensors").exists()


def test_score_raises_the_alarms_that_evaluate_counts(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    test = load("cards.csv", schema=declared("cards.toml")).test.table
    lines = [",".join(test.columns), *(",".join(f"{v:g}" if v % 1 == 0 else f"{v!r}" for v in map(float, row))
                                       for row in zip(*test.columns.values(), strict=True))]  # fmt: skip
    Path("test.csv").write_text("\n".join(lines) + "\n")
    assert main(["score", "one", "test.csv"]) == 0
    raised = np.array([line.split(",")[1] == "attack" for line in Path("scored.csv").read_text().splitlines()[1:]])
    found = record(place)["evaluation"]
    for key, rows in (("detection", test.malicious), ("false_alarms", ~test.malicious)):
        assert found[key]["n"] == rows.sum()
        assert found[key]["rate"] == pytest.approx(raised[rows].mean())
    capsys.readouterr()


def test_reports_on_one_two_and_beside_images(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert main(["report", "one"]) == 0
    page = Path(capsys.readouterr().out.strip())
    text = page.with_suffix(".md").read_text()
    assert "## Detection and false alarms" in text
    assert "foreign == 0 =" in text
    assert "Accuracy under every attack" not in text
    assert main(["report", "one", "two", "--run", "both"]) == 0
    assert "Anything about the detection of B" in Path("both/report.md").read_text()
    digits = {"name": "digits", "shape": [1, 8, 8]}
    image = {"format": 1, "status": "done", "system": "pgd-at", "seed": 0, "data": digits}
    Path("image").mkdir()
    Path("image/record.json").write_text(json.dumps(image))
    assert main(["report", "image", "one", "--run", "mixed"]) == 0
    text = Path("mixed/report.md").read_text()
    assert "the two must not be compared" in text
    assert "in 2 groups that do not compare" in text
    assert {"## Accuracy under every attack", "## Detection by type of attack"} <= set(text.splitlines())
    assert main(["list", "--run", "."]) == 0
    assert "worst case" in capsys.readouterr().out


def test_exit_codes(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)

    def made(*_: Any, **__: Any) -> dict[str, Any]:
        found = record(place)["evaluation"]
        found["checks"][0]["verdict"] = "fail"
        return found

    monkeypatch.setattr(flow_evaluate, "evaluate", made)
    assert main(["evaluate", "one"]) == 0
    assert "-> " in capsys.readouterr().out
    assert main(["evaluate", "one", "--fail-on-check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["n"] == 30
    monkeypatch.undo()
    monkeypatch.chdir(place)
    Path("cards.csv").write_text("\n".join(cards()[:-1]) + "\n")
    assert main(["evaluate", "one"]) == 2
    assert "must be what the run saw" in capsys.readouterr().err
    Path("cards.csv").write_text("\n".join(cards()) + "\n")
    Path("two/detector.safetensors").rename("two/elsewhere.safetensors")
    assert main(["evaluate", "two"]) == 2
    assert "must be a file that holds a detector" in capsys.readouterr().err
    assert main(["train", "ddos", "--data", "cards.csv", "--run", "three"]) == 2
    assert "(--schema FILE)" in capsys.readouterr().err
    Path("blind.toml").write_text(SCHEMA.replace('label = "kind"\nbenign = ["honest"]\n', ""))
    assert main(["train", "ddos", "--data", "cards.csv", "--schema", "blind.toml", "--run", "three"]) == 2
    assert "must name the column that says what a row is" in capsys.readouterr().err
    fixed = (
        SCHEMA.replace('change = "up"\n', "").replace('change = "free"\n', "").replace('label = "kind"', 'label = "no"')
    )
    Path("fixed.toml").write_text(fixed)
    assert main(["train", "ddos", "--data", "cards.csv", "--schema", "fixed.toml", "--run", "three"]) == 2
    assert "lets an attacker change no column" in capsys.readouterr().err
    Path("bare.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in cards()) + "\n")
    assert main(["train", "ddos", "--data", "bare.csv", "--schema", "cards.toml", "--run", "three"]) == 2
    assert "must have the column 'kind'" in capsys.readouterr().err

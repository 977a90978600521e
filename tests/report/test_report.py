"""The report's content: what it shows, what it says is missing, and that it trusts no string."""

import copy
import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparring import report

from .factory import examples, record, three, write_run

undrawn = pytest.mark.usefixtures("blank")
HOSTILE = "<script>alert('x')</script>\"&$\\frac{`|"


class Loads(HTMLParser):
    """Collects the tags of a page and every address from which something could be loaded."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.headings: list[int] = []
        self.images_without_words: int = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.addresses += [found[name] or "" for name in ("src", "href", "xlink:href", "srcset") if name in found]
        self.headings += [int(tag[1])] if re.fullmatch(r"h[1-6]", tag) else []
        silent = tag == "img" and not found.get("alt")
        silent |= tag == "svg" and not (found.get("aria-label") or found.get("aria-hidden"))
        self.images_without_words += silent


def pages(runs: list[Path], out: Path, seed: int = 0) -> tuple[str, str, dict[str, Any]]:
    written = report.write(runs, out, seed=seed)
    return written.html.read_text(), written.markdown.read_text(), json.loads(written.json.read_text())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> report.Written:
    """The report on the three runs of `three`, drawn once."""
    folder = tmp_path_factory.mktemp("three")
    return report.write(three(folder), folder / "out")


def test_three_runs_show_their_numbers(written: report.Written) -> None:
    html, markdown = written.html.read_text(), written.markdown.read_text()
    summary = json.loads(written.json.read_text())
    for page in (html, markdown):
        assert "80.0 % (76.1 to 83.4)" in page
        assert "97.8 % (96.0 to 98.8)" in page
        assert "each pixel may change by up to 0.15 of its range" in page
        assert "440 of 450 test images" in page
        assert "cross-entropy loss; 20 steps of 0.01875; random start; 1 run" in page
        assert "8.9 × (8.5 to 9.3), n = 7" in page
        assert "0.020" in page
        assert "0.012 to 0.030" in page
        assert "4.1 points from 50 to 100 steps" in page
        assert "9 of 12 stored examples" in page
        assert "×3; mid-grey means no change" in page
        assert "sparring train pgd-at --eps 0.15" in page
        assert "Black-box attacks" in page
    assert [run["name"] for run in summary["runs"]] == ["standard", "pgd-at", "trades"]
    assert summary["runs"][1]["evaluation"]["results"]["worst"]["accuracy"] == 0.8
    assert summary["groups"] == [{"title": "digits, L-infinity, eps 0.15", "runs": ["A", "B", "C"]}]
    assert any("Black-box" in sentence for sentence in summary["not_measured"])


def test_page_is_one_file_that_loads_nothing(written: report.Written) -> None:
    html = written.html.read_text()
    found = Loads(html)
    assert written.html.stat().st_size < 2_000_000
    assert sorted(path.name for path in written.html.parent.iterdir()) == ["report.html", "report.json", "report.md"]
    assert "script" not in found.tags
    assert all(address.startswith(("#", "data:")) for address in found.addresses)
    assert "http://" not in html
    assert "https://" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html


def test_page_is_well_formed_for_readers_of_every_kind(written: report.Written) -> None:
    html = written.html.read_text()
    found = Loads(html)
    assert len(found.ids) == len(set(found.ids))
    assert {address[1:] for address in found.addresses if address.startswith("#")} <= set(found.ids)
    assert found.images_without_words == 0
    assert found.headings[0] == 1
    assert found.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(found.headings, found.headings[1:], strict=False))
    assert found.tags.count("table") == html.count("<caption")
    assert '<html lang="en">' in html


def test_plots_take_their_colours_from_the_page(written: report.Written) -> None:
    html = written.html.read_text()
    plots = re.findall(r'<svg class="plot".*?</svg>', html, flags=re.DOTALL)
    assert len(plots) == 1 + 1 + 2 + 3 * 2 + 3 * 2
    for plot in plots:
        used = set(re.findall(r"#[0-9a-f]{6}\b", plot))
        assert not used, used
        assert "font-family" not in plot
        assert "<style" not in plot
        assert "var(--" in plot


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    runs = three(tmp_path)[1:2]
    first, second = report.write(runs, tmp_path / "a"), report.write(runs, tmp_path / "b")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert report.write(runs, tmp_path / "c", seed=1).html.read_bytes() != first.html.read_bytes()


@undrawn
def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    content = record(HOSTILE)
    content["data"] |= {"name": HOSTILE, "classes": [HOSTILE] * 10}
    content["config"][HOSTILE] = HOSTILE
    content["status"] = content["commit"] = content["command"] = HOSTILE
    content["hardware"]["processor"] = HOSTILE
    content["evaluation"]["threat"]["norm"] = HOSTILE
    content["evaluation"]["split"] = HOSTILE
    content["evaluation"]["results"][HOSTILE] = copy.deepcopy(content["evaluation"]["results"]["fgsm"])
    content["evaluation"]["results"][HOSTILE]["parameters"] = {HOSTILE: HOSTILE}
    content["evaluation"]["checks"].append({"name": HOSTILE, "verdict": HOSTILE, "figure": HOSTILE, "advice": HOSTILE})
    other = copy.deepcopy(content)
    other["seed"] = 1
    runs = [write_run(tmp_path / "a", content, examples()), write_run(tmp_path / "b", other)]
    html, markdown, _ = pages(runs, tmp_path / "out")
    found = Loads(html)
    assert "script" not in found.tags
    assert "&lt;script&gt;" in html
    assert found.images_without_words == 0
    outside = re.sub(r"^(`{3,}).*?^\1$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in outside
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    assert all(row.endswith(" |") for row in rows)


@undrawn
def test_a_fence_outlasts_the_backticks_in_a_command(tmp_path: Path) -> None:
    content = record()
    content["command"] = "echo ```\n# not a heading"
    _, markdown, _ = pages([write_run(tmp_path / "run", content)], tmp_path / "out")
    assert "````sh\necho ```\n# not a heading\n" in markdown


@undrawn
def test_two_threats_are_never_in_one_plot(tmp_path: Path) -> None:
    wide = [record("pgd-at", norm="l2", eps=1.0), record("trades", norm="l2", eps=1.0, clean=0.96)]
    narrow = [record("pgd-at"), record("trades", clean=0.962, worst=0.83)]
    runs = [write_run(tmp_path / str(i), content) for i, content in enumerate([*wide, *narrow])]
    html, markdown, summary = pages(runs, tmp_path / "out")
    assert [group["runs"] for group in summary["groups"]] == [["A", "B"], ["C", "D"]]
    assert "must not be compared" in html
    assert "must not be compared" in markdown
    assert html.count('aria-label="Clean against worst-case accuracy.') == 2
    assert "(Euclidean, pixel range 1)" in html


@undrawn
def test_the_same_name_with_other_data_is_another_group(tmp_path: Path) -> None:
    other = record("trades")
    other["data"]["fingerprint"] = "0000"
    runs = [write_run(tmp_path / "a", record()), write_run(tmp_path / "b", other)]
    _, _, summary = pages(runs, tmp_path / "out")
    titles = [group["title"] for group in summary["groups"]]
    assert titles == [
        "digits, L-infinity, eps 0.15 (data fingerprint 9f2c61d07ab3)",
        "digits, L-infinity, eps 0.15 (data fingerprint 0000)",
    ]


@undrawn
def test_an_unevaluated_run_joins_the_group_that_it_trained_for(tmp_path: Path) -> None:
    unfinished = record("trades")
    del unfinished["evaluation"]
    unfinished["status"] = "interrupted"
    unfinished["history"] = unfinished["history"][:3]
    runs = [write_run(tmp_path / "a", record()), write_run(tmp_path / "b", unfinished)]
    html, markdown, summary = pages(runs, tmp_path / "out")
    assert len(summary["groups"]) == 1
    for page in (html, markdown):
        assert "There is no evaluation." in page
        assert "the record’s status is “interrupted”" in page
        assert "3 of 30 epochs" in page
        assert "Anything about the accuracy of B trades: not evaluated." in page


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("calibration", "Calibration: not recorded for A pgd-at."),
        ("checks", "Checks for gradient masking: not recorded for A pgd-at."),
        ("eps_grid", "Other values of eps: not recorded for A pgd-at."),
        ("steps_grid", "Other numbers of attack steps: not recorded for A pgd-at."),
    ],
)
@undrawn
def test_a_missing_part_is_named_and_the_rest_rendered(tmp_path: Path, lost: str, said: str) -> None:
    content = record()
    del content["evaluation"][lost]
    html, markdown, summary = pages([write_run(tmp_path / "run", content)], tmp_path / "out")
    assert said in html
    assert said in markdown
    assert said in summary["not_measured"]
    assert "80.0 % (76.1 to 83.4)" in html


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"format": 1, "status": "running", "system": "pgd-at", "history": []},
        {"evaluation": {"results": {"clean": {"accuracy": 0.5}}}},
        {"evaluation": {"results": {"worst": {"accuracy": 0.5, "n": 10}}, "threat": {"norm": "l1"}}},
        {"evaluation": {"results": 3, "checks": [1, "x"], "calibration": [], "eps_grid": {}}, "config": [], "data": 1},
        {"system": ["x"], "seed": {}, "history": [{"epoch": 1}, {"epoch": 2, "loss": math.nan}], "timing": "soon"},
        {"history": [{"epoch": 1, "loss": 1.0, "validation": {"clean": 0.5}}], "best": {"epoch": 1}},
        {"evaluation": {"calibration": {"clean": {"bins": [{"low": 0, "high": 1, "count": 3}]}}, "results": None}},
    ],
)
@undrawn
def test_almost_empty_records_render(tmp_path: Path, content: dict[str, Any]) -> None:
    html, markdown, summary = pages([write_run(tmp_path / "run", content)], tmp_path / "out")
    assert "What was not measured" in html
    assert "What was not measured" in markdown
    assert len(summary["runs"]) == 1


@undrawn
def test_every_key_may_be_missing_or_of_the_wrong_type(tmp_path: Path) -> None:
    complete = record()
    evaluation = complete["evaluation"]
    wrong = itertools.cycle((None, "x", [], {}, 3, [3], {"x": 3}))
    broken = [complete | {key: next(wrong)} for key in complete if key != "format"]
    broken += [complete | {"evaluation": evaluation | {key: next(wrong)}} for key in evaluation]
    for i, content in enumerate(broken):
        html, markdown, _ = pages([write_run(tmp_path / str(i), content)], tmp_path / "out")
        assert "What was not measured" in html, content
        assert "What was not measured" in markdown, content


@undrawn
def test_a_diverged_run_is_valid_json_and_says_so(tmp_path: Path) -> None:
    content = record()
    content["status"] = "diverged"
    content["history"][5]["loss"] = math.nan
    content["best"]["robust"] = math.inf
    html, _, summary = pages([write_run(tmp_path / "run", content)], tmp_path / "out")
    assert "the record’s status is “diverged”" in html
    assert summary["runs"][0]["best"]["robust"] is None


@undrawn
def test_refused_examples_are_a_warning(tmp_path: Path) -> None:
    content = record()
    content["evaluation"]["results"]["pgd-20"]["refused"] = 7
    html, _, _ = pages([write_run(tmp_path / "run", content)], tmp_path / "out")
    assert "7 adversarial examples lay outside the threat model and were refused." in html


@undrawn
def test_attacks_with_one_name_and_two_settings_get_two_rows(tmp_path: Path) -> None:
    other = record("trades")
    other["evaluation"]["results"]["pgd-20"]["parameters"]["step_size"] = 0.001
    runs = [write_run(tmp_path / "a", record()), write_run(tmp_path / "b", other)]
    _, markdown, _ = pages(runs, tmp_path / "out")
    rows = [line for line in markdown.splitlines() if line.startswith("| PGD-20 |") and "steps of" in line]
    assert len(rows) == 2
    assert all("| – |" in row for row in rows)


@undrawn
def test_not_measured_follows_from_the_records(tmp_path: Path) -> None:
    content = record(n=200)
    content["evaluation"]["results"]["square"] = copy.deepcopy(content["evaluation"]["results"]["fgsm"])
    runs = [write_run(tmp_path / "a", content), write_run(tmp_path / "b", record(seed=1))]
    _, _, summary = pages(runs, tmp_path / "out")
    said = " ".join(summary["not_measured"])
    assert [run["name"] for run in summary["runs"]] == ["pgd-at, seed 0", "pgd-at, seed 1"]
    assert "The whole test set for A pgd-at, seed 0: 200 of 450 examples were attacked." in said
    assert "Black-box attacks, on B pgd-at, seed 1, which use no gradient" in said
    assert "Other seeds" not in said
    assert "Other threat models than L-infinity" in said


@undrawn
def test_images_of_any_size_and_depth(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for shape in ((3, 32, 32), (1, 28, 28), (3, 224, 224), (4, 16, 16)):
        tensors = examples(k=6)
        x = rng.random((6, *shape), dtype=np.float32)
        tensors |= {"x": x, "z": np.clip(x + 8 / 255, 0, 1).astype(np.float32)}
        runs = [write_run(tmp_path / f"{shape}-{i}", {"seed": i}, tensors) for i in range(3)]
        written = report.write(runs, tmp_path / "out")
        html = written.html.read_text()
        assert "6 of 6 stored examples" in html
        assert "×15" in html
        assert ("shown reduced" in html) == (shape[1] > 64)
        assert ("Channels are averaged" in html) == (shape[0] == 4)
        assert written.html.stat().st_size < 2_000_000


@undrawn
def test_unusable_examples_are_explained(tmp_path: Path) -> None:
    flat = examples()
    flat["x"] = flat["z"] = flat["x"].reshape(12, 64)
    partial = examples()
    del partial["clean_confidence"]
    broken = write_run(tmp_path / "broken", record(seed=2))
    (broken / "examples.safetensors").write_bytes(b"nonsense")
    runs = [write_run(tmp_path / "flat", record(), flat), write_run(tmp_path / "part", record(seed=1), partial), broken]
    html, _, _ = pages(runs, tmp_path / "out")
    assert "its stored examples are not images (x has shape [12, 64])" in html
    assert "examples.safetensors lacks clean_confidence" in html
    assert "examples.safetensors cannot be read" in html


def test_errors_name_the_path(tmp_path: Path) -> None:
    with pytest.raises(report.ReportError, match="at least one run folder"):
        report.write([], tmp_path / "out")
    with pytest.raises(report.ReportError, match=r"nowhere.*no record\.json"):
        report.write([tmp_path / "nowhere"], tmp_path / "out")
    for i, content in enumerate(("{", "[1]", '{"format": 2}', "\x80")):
        folder = write_run(tmp_path / f"broken{i}", {})
        (folder / "record.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(report.ReportError, match=f"broken{i}"):
            report.write([folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@undrawn
def test_a_report_replaces_an_older_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", record())
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("old")
    written = report.write([run], out)
    assert written.html.read_text().startswith("<!DOCTYPE html>")
    assert len(list(out.iterdir())) == 3


@undrawn
def test_many_runs_keep_apart(tmp_path: Path) -> None:
    contents = [record(seed=i, worst=0.6 + 0.005 * i) | {"history": []} for i in range(28)]
    for content in contents:
        del content["evaluation"]["calibration"]
    runs = [write_run(tmp_path / content["command"].replace("/", " "), content) for content in contents]
    html, _, summary = pages(runs, tmp_path / "out")
    assert summary["runs"][-1]["letter"] == "AB"
    assert "pgd-at, seed 27" in html

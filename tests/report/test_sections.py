"""Calibration, explanations, cost, checks, and what was not measured; and records with holes anywhere in them."""

import base64
import copy
import io
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from sparring import report
from sparring.report import checks, maps, markdown, words
from sparring.report.page import assemble
from sparring.report.publish import json_text
from sparring.report.read import Estimate, Run, load

from .factory import Record, record, write_run
from .richer import checks as listed
from .richer import explanations, row, section, standard, trained, two, write
from .richer import maps as stored_maps

Load = Callable[..., list[Run]]
HOSTILE = "<script>alert('x')</script>\"&$\\frac{`|"
quiet = pytest.mark.usefixtures("no_plots")


@quiet
def test_every_figure_of_calibration_has_its_interval(loaded: Load) -> None:
    text = section(loaded(trained()), "Calibration").split("### With temperature scaling")[0]
    lines = [line for line in text.splitlines() if line.startswith("| A pgd-at")]
    figures = "0.021, 0.001 to 0.041 | 0.221, 0.201 to 0.241 | 0.521, 0.501 to 0.541 | 150 |"
    assert lines[0] == f"| A pgd-at | without an attack | 0.021, 0.013 to 0.032 | {figures}"
    assert lines[1].startswith("| A pgd-at | under attack, L-infinity, eps 0.15 | 0.042, 0.025 to 0.063 |")
    assert lines[2].startswith("| A pgd-at | under attack, L2, eps 0.5 |")
    assert len(lines) == 3
    assert "Brier score is the mean squared distance" in text


@quiet
def test_temperature_scaling_is_a_table_of_its_own(loaded: Load) -> None:
    text = section(loaded(trained()), "Calibration").split("### With temperature scaling")[1]
    lines = [line for line in text.splitlines() if line.startswith("| A pgd-at")]
    assert lines[0].startswith(
        "| A pgd-at | without an attack | 0.70, fitted on 75 | 0.021, 0.013 to 0.032; before 0.021 (0.013 to 0.032) |"
    )
    assert "fitted on 75, at the end of the range searched" in lines[1]


@quiet
def test_an_old_calibration_has_no_empty_columns(tmp_path: Path) -> None:
    text = section(load([write_run(tmp_path / "a", record())]), "Calibration")
    assert "| Run | Inputs | ECE | n |" in text
    assert "Brier" not in text
    assert "temperature" not in text


@quiet
def test_faithfulness_stands_against_a_random_order(loaded: Load) -> None:
    text = section(loaded(trained()), "Explanations")
    cell = "+0.200 (+0.180 to +0.220), 0.300 (0.280 to 0.320); random 0.600 (0.580 to 0.620)"
    assert f"| Gradient, clean | faithful | {cell} |" in text
    assert "Faithfulness of the explanations of pgd-at against a random order, n = 100" in text
    assert "The attack changed the answer to 50.0 % (48.0 to 52.0) of the inputs**" in text


@quiet
def test_stability_of_maps_that_are_not_faithful_says_nothing(loaded: Load) -> None:
    text = section(loaded(trained(explanations=explanations(0.99, 0.0, faithful=False))), "Explanations")
    assert "| Gradient, clean | **better in 0 of 4** |" in text
    assert "| Gradient, each of its own prediction | **no**, so this says nothing | 0.990 (0.970 to 1.010)" in text


@quiet
def test_missing_maps_are_explained(tmp_path: Path) -> None:
    folders = [write(tmp_path / str(i), trained(seed=i)) for i in range(4)]
    (folders[0] / "explanations.safetensors").unlink()
    (folders[1] / "explanations.safetensors").write_bytes(b"nonsense")
    save_file(stored_maps() | {"x": np.zeros((8, 64), np.float32)}, folders[2] / "explanations.safetensors")
    save_file(stored_maps() | {"gradient/clean": np.zeros((8, 3))}, folders[3] / "explanations.safetensors")
    text = section(load(folders), "Explanations")
    assert "No maps are shown: no maps were stored." in text
    assert "No maps are shown: explanations.safetensors cannot be read" in text
    assert "No maps are shown: its explained inputs are not images" in text
    assert "No maps are shown: the maps of explanations.safetensors do not have the shape of their images." in text


def pixels(uri: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_a_map_is_pale_at_nothing_and_as_dark_on_both_sides() -> None:
    weights = np.array([[-2.0, -1.0, 0.0, 1.0, 2.0, math.nan]])
    image = pixels(maps.coloured(weights)).astype(float)
    light = image @ [0.2126, 0.7152, 0.0722]
    assert image.shape == (1, 6, 3)
    assert (image[0, 2] > 230).all()
    assert np.array_equal(image[0, 5], image[0, 2])
    assert light[0, 2] > light[0, 3] > light[0, 4]
    assert light[0, 2] > light[0, 1] > light[0, 0]
    assert np.abs(light[0, [0, 1]] - light[0, [4, 3]]).max() < 25
    assert image[0, 4, 0] > image[0, 4, 2]
    assert image[0, 0, 0] < image[0, 0, 2]


def test_a_map_of_nothing_is_pale_everywhere() -> None:
    image = pixels(maps.coloured(np.zeros((4, 5))))
    assert image.shape == (4, 5, 3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 1


def test_a_map_is_on_a_scale_of_its_own() -> None:
    weights = np.random.default_rng(0).normal(size=(6, 6))
    assert maps.coloured(weights) == maps.coloured(1000 * weights)


@quiet
def test_cost_is_counted_in_passes_and_queries(loaded: Load) -> None:
    text = section(loaded(trained()), "Cost")
    assert "| APGD, cross-entropy, L-infinity, eps 0.15 | 144 | 2,880 | 2,880 | 20 / 31 | – | 1.5 s |" in text
    assert "| Square, L-infinity, eps 0.15 | 90 | 18,000 | 0 | 200 / 200 | 200 | 1.5 s |" in text
    assert "| Square, L2, eps 0.5 | 45 |" in text
    assert "| grid of 63 and 50 random, Rotation | – | 10 | – | – | 113 | – |" in text
    assert "| APGD, L-infinity | – | 100 |" in text
    assert "1 min 40 s" in text  # 97.3 s and 3 s, of both threat models


@quiet
def test_old_costs_have_no_table_of_passes(tmp_path: Path) -> None:
    text = section(load([write_run(tmp_path / "a", record())]), "Cost")
    assert "attack by attack" not in text
    assert "8.9 × (8.5 to 9.3), n = 7" in text


@quiet
def test_failed_checks_come_first_with_what_to_do(loaded: Load) -> None:
    content = trained(checks=listed(failed="restarts"))
    content["evaluation"]["checks"][-1]["verdict"] = "unsure"
    text = section(loaded(content), "Checks on the evaluation")
    failed, passed = text.index("2 of 14 checks"), text.index("12 of 14 checks")
    assert failed < passed
    assert row(text[:passed], "Do restarts add little?") == (
        "| Do restarts add little?, restarts | **fail** | of restarts, fix restarts |"
    )
    assert "| **unsure** | of black-box, fix black-box |" in text
    assert "fix eps-monotone" not in text
    assert "All 14 checks on the evaluation of pgd-at under L2, eps 0.5 passed" in text


def test_every_check_of_an_evaluation_has_its_question() -> None:
    source = Path(report.__file__).parent.parent
    files = ("evaluation/sanity.py", "evaluation/probes.py", "commands/flow_checks.py")
    code = "".join((source / file).read_text() for file in files)
    assert [name for name in checks.QUESTIONS if f'"{name}"' not in code] == []


@quiet
def test_not_measured_says_what_is_left(loaded: Load, tmp_path: Path) -> None:
    said = section(loaded(trained()), "What was not measured")
    assert "Black-box" not in said
    assert "Corruptions" not in said
    assert "Explanations" not in said
    assert "Threat models of other kinds" not in said
    assert "The standard ensemble of attacks on A pgd-at: a smaller suite ran" in said
    assert "Other threat models than L-infinity, L2 and rotation: robustness in one does not carry over" in said
    assert "Adaptive attacks: nobody designed an attack against these particular models." in said
    old = section(load([write_run(tmp_path / "old", record())]), "What was not measured")
    assert "Corruptions and other shifts of the data: not recorded for A pgd-at." in old
    assert "Threat models of other kinds, such as patches and rotations: not recorded for A pgd-at." in old
    assert "Other threat models than L-infinity: robustness in one norm does not carry over." in old
    assert "The standard ensemble" not in old


@quiet
def test_a_model_from_elsewhere_was_not_trained_once(loaded: Load) -> None:
    content = trained()
    content |= {"system": "external", "history": [], "config": {}}
    said = section(loaded(content), "What was not measured")
    assert "Other seeds" not in said
    assert "A external" in said


@quiet
def test_missing_numbers_are_words(loaded: Load) -> None:
    assert words.points(0.0123, None, None) == "+1.2"
    assert words.points(-0.0123, -0.02, 0.001) == "−1.2 (−2.0 to +0.1)"
    assert words.chance(0.0004) == "< 0.001"
    assert words.chance(0.0421) == "0.042"
    assert words.error(Estimate(-0.5, -0.6, 0.1, 3)) == "−0.500 (−0.600 to 0.100)"
    assert words.listing(["a", "b"], "or") == "a or b"


def paths(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a record that is no list's second member."""
    steps = (
        content.items() if isinstance(content, dict) else enumerate(content[:1]) if isinstance(content, list) else ()
    )
    for key, inner in steps:
        yield (*at, key)
        yield from paths(inner, (*at, key))


@quiet
def test_a_hole_anywhere_leaves_the_rest(loaded: Load) -> None:
    """A value lost, of another type, or not finite: at a random sample of all places."""
    complete, base = trained(), standard()
    chance = random.Random(0)
    every = list(paths(complete["evaluation"]))
    assert len(every) > 500
    (intact, other) = loaded(complete, base)
    for at in chance.sample(every, 80):
        content: Record = copy.deepcopy(complete)
        part = content["evaluation"]
        for key in at[:-1]:
            part = part[key]
        wrong = chance.choice([None, "x", [], {}, -3, [3], {"x": 3}, math.nan, math.inf, True, "gone"])
        if wrong == "gone" and isinstance(part, dict):
            del part[at[-1]]
        else:
            part[at[-1]] = wrong
        broken = Run(**{**vars(intact), "record": content})
        page = assemble([broken, other], seed=0)
        assert page.sections[-1].anchor == "unmeasured", (at, wrong)
        shown = [part for part in page.sections if part.anchor != "configuration"]  # which shows a record as it is
        text = markdown.render(replace(page, sections=shown))
        if not {"parameters", "threat"} & set(at):  # settings, too, are shown as they are
            assert " nan" not in text, (at, wrong)
            assert " inf" not in text, (at, wrong)
        json_text(page)


def test_hostile_names_inside_the_new_parts_stay_text(tmp_path: Path, blank: None) -> None:
    content = trained()
    evaluation = content["evaluation"]
    evaluation["suite"] = {"name": HOSTILE, "sequential": True, "bound": HOSTILE}
    evaluation["unseen"] = {HOSTILE: {**evaluation["unseen"]["rotation"], "threat": {"norm": HOSTILE}}}
    evaluation["shift"]["corruptions"] = {HOSTILE: evaluation["shift"]["corruptions"]["fog"]}
    evaluation["shift"] |= {"mce": 0.5, "ce": {HOSTILE: 0.5}, "reference": HOSTILE}
    evaluation["outside"] |= {"data": HOSTILE, "scores": {HOSTILE: evaluation["outside"]["scores"]["energy"]}}
    evaluation["explanations"]["methods"] = {HOSTILE: evaluation["explanations"]["methods"]["gradient"]}
    evaluation["others"][0]["threat"]["norm"] = HOSTILE
    folder = write(tmp_path / "a", content)
    named = {key.replace("gradient/", f"{HOSTILE}/"): stored for key, stored in stored_maps().items()}
    save_file(named, folder / "explanations.safetensors")
    written = report.write([write(tmp_path / "b", standard()), folder], tmp_path / "out")
    html, text = written.html.read_text(), written.markdown.read_text()
    assert "<script" not in html
    assert "<script" not in text
    assert "&lt;script&gt;" in html
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith(" |") for line in rows)


def test_the_whole_report_with_everything_in_it(tmp_path: Path) -> None:
    written = report.write(two(tmp_path), tmp_path / "out")
    html = written.html.read_text()
    assert html.count("<img ") == 2 * (9 * 3 + 6 * 8) + 4 * (1 + 2 * 3)
    assert 'style="--heat: 20%"' in html
    assert html.count('aria-label="Accuracy under threat models of other kinds') == 1
    assert written.html.stat().st_size < 1_000_000
    ids = [part.split('"')[0] for part in html.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    summary = written.json.read_text()
    assert '"differences"' in summary
    assert '"improved": "yes"' in summary
    again = report.write(two(tmp_path / "again"), tmp_path / "other")
    assert again.markdown.read_bytes() == written.markdown.read_bytes()

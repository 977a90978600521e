"""The same inputs explained by several runs: which ones are shown, what stands under them, and what files may lack."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sparring import report
from sparring.report import maps as drawn
from sparring.report.blocks import Cell, Heading, Table
from sparring.report.images import uri
from sparring.report.read import Run, load
from sparring.report.side_by_side import side_by_side
from sparring.report.tensors import Stored

from .richer import figure, maps, section, standard, trained, two, write

pytestmark = pytest.mark.usefixtures("no_plots")
Load = Callable[..., list[Run]]


def table(runs: list[Run]) -> Table:
    found = [block for block in side_by_side(runs) if isinstance(block, Table)]
    assert len(found) == 1
    return found[0]


def having(run: Run, tensors: dict[str, Any]) -> Run:
    return replace(run, maps=Stored(tensors))


def only(places: list[int], **changed: Any) -> dict[str, Any]:
    """The stored examples at these places."""
    return {name: value[places] for name, value in {**maps(), **changed}.items()}


def examples(found: Table) -> list[str]:
    """The rows of the test set that are shown."""
    return [line[0].detail.rsplit(" ", 1)[1] for line in found.rows[::2]]


def test_each_run_has_its_column_and_each_example_two_lines(loaded: Load) -> None:
    runs = loaded(standard(), trained())
    found, stored = table(runs), maps()
    assert found.caption == "Grad-CAM of the same 4 examples of digits, run by run."
    assert [cell.mark.name if cell.mark else cell.text for cell in found.head] == ["Image", "standard", "pgd-at"]
    assert examples(found) == ["100", "93", "86", "79"]  # in stored order, which is random
    assert [line[0].text for line in found.rows] == ["clean", "attacked"] * 4
    for place in range(4):
        clean, attacked = found.rows[2 * place : 2 * place + 2]
        assert [image.uri for image in clean[0].images] == [uri(stored["x"][place])]
        assert clean[0].detail == f"class “{place}”, test image {100 - 7 * place}"
        for run, above, below in zip(runs, clean[1:], attacked[1:], strict=True):
            assert [image.uri for image in above.images] == [drawn.coloured(stored["grad-cam/clean"][place])]
            own = [drawn.coloured(stored["grad-cam/attacked"][place]), uri(stored["z"][place])]
            assert [image.uri for image in below.images] == own
            assert above.images[0].alt == (
                f"Grad-CAM of {run.letter} {run.name} for the clean image of class {place}, predicted {place}"
            )
            assert below.images[1].alt == f"Image of class {place} as attacked against {run.letter} {run.name}"


def test_right_and_wrong_are_words(loaded: Load) -> None:
    found = table(loaded(standard(), trained()))
    said = [[cell.text for cell in line[1:]] for line in found.rows]
    assert said == [[f"“{k}” right"] * 2 for k in (0, 0, 1, 1, 2, 2, 3)] + [["“2” wrong"] * 2]
    assert [cell.tone for cell in found.rows[-1][1:]] == ["bad", "bad"]
    assert {cell.tone for line in found.rows[:-1] for cell in line[1:]} == {"good"}


def test_the_examples_that_the_most_runs_have_come_first_and_a_gap_is_named(loaded: Load) -> None:
    first, second, third = loaded(standard(), trained(), trained(seed=5))
    runs = [first, having(second, only([7, 5, 1])), having(third, only([6, 5, 2]))]
    found = table(runs)
    assert examples(found) == ["65", "93", "86", "58"]  # place 5 in all three; 1, 2 and 6 in two, in the first's order
    assert [cell.text for cell in found.rows[2]][1:] == ["“1” right", "“1” right", "not stored"]
    alone = [having(first, only([0, 1])), having(second, only([2, 3])), having(third, only([1]))]
    found = table(alone)
    assert examples(found) == ["93"]
    assert found.caption.startswith("Grad-CAM of the same 1 example of digits")


def test_the_method_is_one_that_the_most_runs_have(loaded: Load) -> None:
    first, second, third = loaded(standard(), trained(), trained(seed=5))
    without = {name: value for name, value in maps().items() if not name.startswith("grad-cam/")}
    found = table([first, having(second, without)])
    assert found.caption.startswith("Gradient of the same 4 examples")
    assert found.rows[0][1].images[0].uri == drawn.coloured(maps()["gradient/clean"][0])
    found = table([first, having(second, without), having(third, without)])
    assert found.caption.startswith("Gradient of")
    assert len(found.head) == 4
    neither = {name: value for name, value in without.items() if not name.startswith("gradient/")}
    found = table([first, having(second, neither), third])
    assert found.caption.startswith("Grad-CAM of")
    assert [cell.mark.letter for cell in found.head if cell.mark] == ["A", "C"]


def test_only_runs_on_the_same_images_stand_side_by_side(loaded: Load) -> None:
    elsewhere = trained()
    elsewhere["data"]["fingerprint"] = "0"
    runs = loaded(standard(), trained(), elsewhere)
    assert [cell.mark.letter for cell in table(runs).head if cell.mark] == ["A", "B"]
    assert side_by_side([runs[0], runs[2]]) == []
    assert side_by_side(runs[:1]) == []
    moved = having(runs[1], only(list(range(8)), x=maps()["x"][::-1].copy()))
    assert side_by_side([runs[0], moved]) == []  # another order of the test set
    numbered = having(runs[1], only(list(range(8)), rows=maps()["rows"] + 1))
    assert side_by_side([runs[0], numbered]) == []


@pytest.mark.parametrize("gone", ["rows", "prediction/clean", "prediction/attacked"])
def test_files_of_before_are_still_read_and_their_own_maps_shown(tmp_path: Path, gone: str) -> None:
    folders = two(tmp_path)
    save_file({name: value for name, value in maps().items() if name != gone}, folders[1] / "explanations.safetensors")
    runs = load(folders)
    assert runs[1].maps.problem == ""
    assert side_by_side(runs) == []
    text = section(runs, "Explanations")
    assert "Side by side" not in text
    assert text.count("6 of 8 stored examples") == 2


@pytest.mark.parametrize(("name", "wrong"), [
    ("rows", np.arange(7)), ("rows", np.arange(8.0)), ("prediction/clean", np.zeros((8, 8, 8), np.float32)),
    ("prediction/attacked", np.zeros((8, 1), np.int64)),
])  # fmt: skip
def test_rows_and_answers_of_another_kind_are_a_problem_that_is_named(tmp_path: Path, name: str, wrong: Any) -> None:
    folder = write(tmp_path / "a", trained())
    save_file({**maps(), name: wrong}, folder / "explanations.safetensors")
    assert load([folder])[0].maps.problem == (
        "the rows or answers in explanations.safetensors are not one whole number per image"
    )


def test_the_heading_comes_once_before_the_runs_own_maps(loaded: Load) -> None:
    other = trained(seed=9)
    other["data"]["fingerprint"] = "0"
    again = trained(seed=8)
    again["data"]["fingerprint"] = "0"
    runs = loaded(standard(), trained(), other, again)
    assert sum(isinstance(block, Heading) for block in side_by_side(runs)) == 1
    assert len([block for block in side_by_side(runs) if isinstance(block, Table)]) == 2
    text = section(runs, "Explanations")
    assert text.index("### Side by side") < text.index("### A standard")
    assert "each map of it has its own beside it" in text
    assert text.count(", test image 100 |") == 2


def test_what_was_left_out_and_where_maps_lie_is_said(loaded: Load) -> None:
    content = trained()
    part = content["evaluation"]["explanations"]
    part["left_out"] = {"grad-cam": "Grad-CAM needs a feature map"}
    inside = {key: {**figure(0.6), "control": figure(0.25)} for key in ("energy", "pointing")}
    part["methods"]["gradient"]["concentration"] = {"clean": inside, "attacked": inside}
    text = section(loaded(content), "Explanations")
    assert "> Left out for this model: Grad-CAM (Grad-CAM needs a feature map)." in text
    cell = "60.0 % (58.0 to 62.0), of the image 25.0 %"
    assert text.count(f"| {cell} | {cell} |") == 2
    assert "How much of the maps of pgd-at lies in the foreground" in text
    assert "| Grad-CAM, clean |" in text  # among the tables of faithfulness
    assert "| SSIM |" in text
    assert "foreground" not in section(loaded(trained()), "Explanations")


def test_the_page_has_every_picture_with_its_words(tmp_path: Path) -> None:
    content = trained()
    content["data"]["classes"] = ['<b class="x">'] * 10
    folders = [write(tmp_path / "a", standard()), write(tmp_path / "b", content)]
    html = report.write(folders, tmp_path / "out").html.read_text()
    pictures = re.findall(r'<span class="pictures">(.*?)</span>', html)
    assert [group.count("<img ") for group in pictures] == [1, 1, 1, 2, 2] * 4
    assert all(len(re.findall(r'alt="[^"<>]{20,}"', group)) == group.count("<img ") for group in pictures)
    assert '<b class="x">' not in html
    assert 'style="--columns: 4"' in html  # an image and three maps
    assert json.loads((tmp_path / "out" / "report.json").read_text())["runs"]


def test_a_cell_without_pictures_is_as_before() -> None:
    assert Cell("text").images == ()

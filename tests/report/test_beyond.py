"""Beyond the ball: unseen threats, corruptions, other data, and whether adversarial training helped."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sparring.report import canvas, markdown, plots, unseen, verdicts
from sparring.report.blocks import Mark
from sparring.report.page import assemble
from sparring.report.read import Estimate, Run, load

from .factory import record, wilson, write_run
from .richer import explanations, figure, row, section, shift, standard, trained, write
from .richer import unseen as unseen_results

pytestmark = pytest.mark.usefixtures("no_plots")
Load = Callable[..., list[Run]]
TITLE = "Beyond the ball"


def answers(*runs: Run) -> Mapping[str, str]:
    return {each.aspect: each.answer for each in verdicts.verdicts(runs)}


def test_a_verdict_stands_where_intervals_do_not_overlap(loaded: Load) -> None:
    runs = loaded(standard(), trained())
    assert answers(*runs) == {
        "Threat models not trained against": "cannot tell",
        "Accuracy under corruptions": "yes",
        "Calibration without an attack": "cannot tell",
        "Calibration under attack": "cannot tell",
        "Faithfulness of gradient maps": "cannot tell",
        "Stability of gradient maps": "yes",
        "Faithfulness of integrated gradients maps": "cannot tell",
        "Stability of integrated gradients maps": "yes",
        "Faithfulness of Grad-CAM maps": "cannot tell",
        "Stability of Grad-CAM maps": "yes",
    }
    text = section(runs, TITLE)
    assert (
        "Against A standard, B pgd-at is better in accuracy under corruptions, stability of gradient maps, "
        "stability of integrated gradients maps and stability of Grad-CAM maps; it "
        "cannot be told apart in threat models not trained against, "
    ) in text
    assert "yes, 80.0 % (79.0 to 81.0) against 70.0 % (69.0 to 71.0), n = 150; the intervals do not overlap." in text
    assert "Runs that were trained once may also differ by their seed alone." in text


def test_worse_is_said_as_plainly(loaded: Load) -> None:
    content = trained(shift=shift(0.6, 150), unseen=unseen_results(0.02, 150), explanations=explanations(0.3, 0.1))
    content["evaluation"]["calibration"]["clean"] |= {"ece": 0.3, "low": 0.25, "high": 0.35}
    found = answers(*loaded(standard(), content))
    assert found["Accuracy under corruptions"] == "no, worse"
    assert found["Threat models not trained against"] == "no, worse"
    assert found["Calibration without an attack"] == "no, worse"
    assert found["Faithfulness of gradient maps"] == "no, worse"
    assert found["Stability of gradient maps"] == "no, worse"
    said = section(loaded(standard(), content), TITLE)
    assert "B pgd-at is worse in threat models not trained against, accuracy under corruptions, calibration" in said


def test_a_part_is_called_a_part_and_a_mixture_mixed(loaded: Load) -> None:
    content = trained()
    clean = content["evaluation"]["explanations"]["methods"]["gradient"]["clean"]
    clean["insertion"]["advantage"] = figure(0.5)
    assert answers(*loaded(standard(), content))["Faithfulness of gradient maps"] == "in part"
    clean["deletion"]["advantage"] = figure(0.01)
    runs = loaded(standard(), content)
    assert answers(*runs)["Faithfulness of gradient maps"] == "mixed"
    assert "Clearly better in 1 of 4, clearly worse in 1." in section(runs, TITLE)


def test_stability_without_faithfulness_says_nothing(loaded: Load) -> None:
    content = trained(explanations=explanations(0.99, 0.2, faithful=False))
    runs = loaded(standard(), content)
    found = {each.aspect: each for each in verdicts.verdicts(runs)}
    assert found["Stability of gradient maps"].answer == "cannot tell"
    assert "the maps of B pgd-at are not faithful" in found["Stability of gradient maps"].evidence


def test_what_suites_or_numbers_of_examples_explain_is_no_verdict(loaded: Load) -> None:
    other = trained(suite={"name": "standard", "sequential": True, "bound": ""})
    part = other["evaluation"]["calibration"]
    part["attacked"] |= {"ece": 0.9, "low": 0.8, "high": 1.0}
    part["clean"] |= {"ece": 0.9, "low": 0.8, "high": 1.0, "n": 75}
    found = {each.aspect: each for each in verdicts.verdicts(loaded(standard(), other))}
    assert found["Calibration under attack"].answer == "cannot tell"
    assert found["Calibration under attack"].evidence.endswith("but the suites of attacks differ")
    assert found["Calibration without an attack"].answer == "cannot tell"
    assert found["Stability of gradient maps"].answer == "cannot tell"


def test_without_a_baseline_nobody_can_tell(loaded: Load) -> None:
    text = section(loaded(trained()), TITLE)
    assert "Cannot tell for A pgd-at: the report holds no standard training on the same data" in text
    assert "Did adversarial training help" not in section(loaded(standard()), TITLE)


def test_another_threat_model_or_other_data_is_no_baseline(loaded: Load) -> None:
    elsewhere, wider = standard(), standard()
    elsewhere["data"]["fingerprint"] = "0"
    wider["evaluation"]["threat"]["eps"] = 0.3
    assert answers(*loaded(elsewhere, wider, trained())) == {}


def test_the_baseline_is_the_one_of_the_same_seed(loaded: Load) -> None:
    first, second, run = standard(), standard(), trained()
    second["seed"] = run["seed"] = 7
    assert {each.baseline.letter for each in verdicts.verdicts(loaded(first, second, run))} == {"B"}


def test_intervals_that_touch_overlap() -> None:
    one, other = Estimate(0.5, 0.4, 0.6, 10), Estimate(0.7, 0.6, 0.8, 10)
    assert verdicts.compared(one, other, more=True)[0] == "cannot tell"
    assert verdicts.compared(other, one, more=True)[0] == "cannot tell"
    apart = Estimate(0.7, 0.61, 0.8, 10)
    assert verdicts.compared(one, apart, more=True)[0] == "no, worse"
    assert verdicts.compared(one, apart, more=False)[0] == "yes"
    assert verdicts.compared(apart, one, more=True)[0] == "yes"
    assert verdicts.compared(one, Estimate(0.9, None, None, 10), more=True)[0] == "cannot tell"


def test_unseen_threats_in_words_with_the_trained_one_marked(loaded: Load) -> None:
    runs = loaded(standard(), trained())
    text = section(runs, TITLE)
    ball = row(text, "L-infinity, eps 0.15")
    assert ball == (
        "| L-infinity, eps 0.15 | 70.0 % (62.2 to 76.8) | 70.0 % (62.2 to 76.8), trained against | "
        "APGD; margin loss; 50 steps |"
    )
    turned = row(text, "Rotation by up to 30°, shift by up to 10 %")
    assert "20.0 % (14.4 to 27.1)" in turned
    assert "grid of 63 and 50 random; margin loss; 113 queries" in turned
    assert text.index("| L-infinity, eps 0.15 |") < text.index("| Rotation by")
    assert [name for name, _, _ in unseen.pairs(runs[1], runs[0])] == ["Rotation"]


def test_unseen_attacks_with_other_settings_get_two_rows_and_no_verdict(loaded: Load) -> None:
    other = trained()
    other["evaluation"]["unseen"]["rotation"]["parameters"]["queries"] = 7
    runs = loaded(standard(), other)
    text = section(runs, TITLE)
    assert text.count("| Rotation by up to 30°") == 2
    assert unseen.pairs(runs[1], runs[0]) == []


@pytest.mark.parametrize(
    ("name", "threat", "said"),
    [
        ("patch", {"norm": "patch", "eps": 1.0, "side": 2}, "Patch of 2 × 2 pixels"),
        ("frame", {"norm": "masked", "share": 0.4375}, "Frame, 43.8 % of the pixels"),
        ("flow", {"norm": "flow", "max_pixels": 1.0}, "Flow of up to 1 pixel"),
        ("colour", {"norm": "colour", "contrast": 0.3, "gain": [0.1]}, "Colour (contrast 0.3, gain 0.1)"),
        ("l2", {"norm": "l2", "eps": 0.5}, "L2, eps 0.5"),
        ("rotation", {"norm": "rotation-translation"}, "Rotation"),
        ("my own", {}, "My own"),
    ],
)
def test_kinds_of_threat_models_in_words(loaded: Load, name: str, threat: dict[str, Any], said: str) -> None:
    content = trained(unseen={name: {**wilson(0.3, 150), "threat": threat}})
    assert row(section(loaded(content), TITLE), said).endswith("| not recorded |")


def test_corruptions_are_a_table_of_severities_with_their_reference(tmp_path: Path) -> None:
    folder = tmp_path / "standard"
    other = trained(shift=shift(0.8, 150, mce=0.67, reference=str(folder)))
    runs = load([write(folder, standard()), write(tmp_path / "pgd-at", other)])
    text = section(runs, TITLE)
    means, own = text.split("### B pgd-at, corruption by corruption")
    assert "80.0 % (79.0 to 81.0)" in row(means.split("### Corruptions on digits")[1], "B pgd-at")
    assert "| 0.67, of A standard |" in means
    assert row(own.split("The same with 95 % intervals")[0], "Gaussian noise") == (
        "| Gaussian noise | 86 | 83 | 80 | 77 | 74 | 80.0 % (79.0 to 81.0) | 0.110 | 0.67 |"
    )
    assert "JPEG" in own
    assert "86.0 % (79.5 to 90.7)" in own.split("The same with 95 % intervals")[1]


def test_a_reference_outside_the_report_is_named_by_its_folder(loaded: Load) -> None:
    content = trained(shift=shift(0.8, 150, mce=0.67, reference="/somewhere/else/alexnet"))
    text = section(loaded(content), TITLE)
    assert "0.67, of alexnet" in text
    assert "/somewhere" not in text
    odd = trained(shift=shift(0.8, 150, mce=0.67, reference="\0"))
    assert "0.67, of" in section(loaded(odd), TITLE)


def test_other_data_has_its_scores(loaded: Load) -> None:
    text = section(loaded(trained()), TITLE)
    assert (
        "| A pgd-at | mnist | Largest probability | 0.950 (0.930 to 0.970) | 30.0 % (28.0 to 32.0) | "
        "98.0 % / 70.0 %, n = 150 and 140 |"
    ) in text


def test_what_is_lacking_is_one_note_for_all_alike(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / str(i), record(seed=i)) for i in range(2)]
    partly = trained(seed=2)
    del partly["evaluation"]["shift"]
    text = section(load([*folders, write(tmp_path / "2", partly)]), TITLE)
    assert (
        "the record of A pgd-at (0) and B pgd-at, seed 1 holds no threat models of other kinds, corruptions or data "
        "from elsewhere."
    ) in text
    assert text.count("Not shown:") == 2


@pytest.mark.parametrize("key", ["unseen", "shift", "outside", "explanations", "temperature", "union", "others"])
@pytest.mark.parametrize("wrong", [None, 3, "x", [], {}, [3], {"x": 3}, {"x": {"accuracy": float("nan")}}])
def test_parts_of_the_wrong_type_are_passed_over(loaded: Load, key: str, wrong: object) -> None:
    runs = loaded(standard(), trained(**{key: wrong}))
    assert "What was not measured" in markdown.render(assemble(runs, seed=0))


def test_a_hollow_marker_is_filled_with_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    mark, e = Mark("A", "run", 0), Estimate(0.5, 0.4, 0.6, 10)
    rows = [("L2", [(mark, e)]), ("Patch", [(mark, e)])]
    filled = plots.per_attack("a", "label", rows)
    hollow = plots.per_attack("a", "label", rows, hollow={("L2", mark)})
    assert filled.count("var(--paper)") == 0
    assert hollow.count("var(--paper)") == 1
    assert set(canvas.VARIABLES.values()) >= {"--paper", "--series-1"}

"""Runs beside each other: several threat models and their union, suites, and differences example by example."""

from collections.abc import Callable
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sparring.evaluation.paired import newcombe
from sparring.report import facts, paired
from sparring.report.cards import card
from sparring.report.read import Run, load
from sparring.report.tensors import Stored

from .factory import record, write_run
from .richer import attacked, outcomes, row, section, standard, trained, two, write

pytestmark = pytest.mark.usefixtures("no_plots")
Load = Callable[..., list[Run]]


def test_the_difference_is_the_second_minus_the_first_on_the_same_examples(loaded: Load) -> None:
    """Of 150 examples A has the first 6 right under attack and B the first 90."""
    (group,) = facts.groups(loaded(standard(), trained()))
    found, notes = paired.differences(group)
    clean, worst, union = found
    assert notes == []
    assert [each.what for each in found] == ["clean", "worst", "union"]
    assert [worst.first.letter, worst.second.letter] == ["A", "B"]
    assert worst.figures["difference"] == 84 / 150
    assert [worst.figures[key] for key in ("only_first", "only_second", "n")] == [0, 84, 150]
    assert worst.figures["p"] == pytest.approx(2 * 0.5**84)
    assert (worst.figures["low"], worst.figures["high"]) == newcombe(6, 84, 0, 60)
    assert clean.figures["difference"] == -3 / 150
    assert clean.figures["p"] == pytest.approx(2 * 0.5**3)
    assert union.figures["difference"] == (45 - 3) / 150


def test_crossing_answers_have_mcnemars_p(loaded: Load) -> None:
    a, b = loaded(standard(), standard())
    one, other = dict(a.outcomes.tensors or {}), dict(b.outcomes.tensors or {})
    one["worst"], other["worst"] = np.roll(one["worst"], 1), np.roll(other["worst"], 4)
    other["clean"] = np.roll(other["clean"], 1)
    runs = [replace(run, outcomes=Stored(found)) for run, found in ((a, one), (b, other))]
    clean, worst, _ = paired.differences(facts.groups(runs)[0])[0]
    assert (worst.figures["only_first"], worst.figures["only_second"]) == (3, 3)
    assert worst.figures["p"] == 1.0
    assert (clean.figures["only_first"], clean.figures["only_second"], clean.figures["difference"]) == (1, 1, 0.0)
    text = section(runs, "Comparison")
    assert "| Worst case | 0.0 (" in text
    assert "| B 3, A 3 | 150 |" in text


def test_the_table_says_what_the_numbers_say(loaded: Load) -> None:
    text = section(loaded(standard(), trained()), "Comparison")
    low, high = newcombe(6, 84, 0, 60)
    assert f"| B pgd-at minus A standard | Worst case | **+56.0 (+{100 * low:.1f} to +{100 * high:.1f})** " in text
    assert "| &lt; 0.001 | B 84, A 0 | 150 |" in text
    assert "| B pgd-at minus A standard | No attack | −2.0 (" in text
    assert f"| {2 * comb(3, 0) / 2**3:.3f} | B 0, A 3 | 150 |" in text
    assert "not corrected for the number of comparisons" in text


def test_other_rows_are_never_paired(tmp_path: Path) -> None:
    runs = load([write(tmp_path / "a", standard()), write(tmp_path / "b", trained(), first=1)])
    found, notes = paired.differences(facts.groups(runs)[0])
    assert found == []
    assert notes == ["Evaluated on different test examples, and so not compared in pairs: A standard; B pgd-at."]
    assert notes[0] in section(runs, "Comparison")


def test_three_runs_are_paired_where_their_rows_are_the_same(tmp_path: Path) -> None:
    folders = [write(tmp_path / "a", standard()), write(tmp_path / "b", trained(), first=1)]
    runs = load([*folders, write(tmp_path / "c", trained())])
    found, notes = paired.differences(facts.groups(runs)[0])
    assert {(each.first.letter, each.second.letter) for each in found} == {("A", "C")}
    assert "A standard and C pgd-at (c); B pgd-at (b)" in notes[0]


def test_outcomes_of_another_evaluation_are_not_used(tmp_path: Path) -> None:
    folder = write(tmp_path / "b", trained())
    stale = outcomes(trained())
    stale["worst"] = np.roll(stale["worst"], 1) | stale["worst"]
    save_file(stale, folder / "outcomes.safetensors")
    text = section(load([write(tmp_path / "a", standard()), folder]), "Comparison")
    assert "B pgd-at; outcomes.safetensors is not from the evaluation in its record." in text
    assert "minus" not in text


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"clean": np.ones(3, bool)}, "does not say which test examples it is about"),
        ({"rows": np.arange(3), "clean": np.ones(4, bool)}, "are not one answer per example"),
        ({"rows": np.arange(3), "clean": np.ones(3)}, "are not one answer per example"),
        (None, "cannot be read"),
    ],
)
def test_unusable_outcomes_are_explained(tmp_path: Path, broken: dict[str, np.ndarray] | None, said: str) -> None:
    folders = two(tmp_path)
    if broken is None:
        (folders[1] / "outcomes.safetensors").write_bytes(b"nonsense")
    else:
        save_file(broken, folders[1] / "outcomes.safetensors")
    assert said in section(load(folders), "Comparison")


def test_different_suites_are_said(loaded: Load) -> None:
    other = trained(suite={"name": "standard", "sequential": True, "bound": ""})
    text = section(loaded(standard(), other), "Comparison")
    assert "The suites of attacks differ (A standard: quick; B pgd-at: standard)." in text


def test_many_runs_are_each_compared_with_standard_training(loaded: Load) -> None:
    runs = loaded(trained(), trained(), standard(), trained(), trained())
    found, _ = paired.differences(facts.groups(runs)[0])
    assert {(each.first.letter, each.second.letter) for each in found} == {("C", other) for other in "ABDE"}


def test_one_run_needs_no_difference(loaded: Load) -> None:
    assert "minus" not in section(loaded(trained()), "Comparison")


def test_every_threat_model_has_a_row_and_the_union_its_own(loaded: Load) -> None:
    text = section(loaded(standard(), trained()), "Comparison")
    assert row(text, "L-infinity, eps 0.15").count("60.0 % (52.0 to 67.5)") == 1
    assert row(text, "L2, eps 0.5").count("30.0 % (23.2 to 37.8)") == 1
    assert "**30.0 % (23.2 to 37.8)**" in row(text, "**Union of L-infinity eps 0.15 and L2 eps 0.5**")


def test_unions_of_other_threat_models_are_never_in_one_row(loaded: Load) -> None:
    other = trained()
    other["evaluation"]["others"][0]["threat"]["eps"] = 1.0
    text = section(loaded(standard(), other), "Comparison")
    assert row(text, "L2, eps 0.5").endswith("| – |")
    assert row(text, "L2, eps 1").split("|")[2] == " – "
    assert row(text, "**Union of L-infinity eps 0.15 and L2 eps 0.5**").endswith("| **–** |")
    assert row(text, "**Union of L-infinity eps 0.15 and L2 eps 1**").split("|")[2] == " **–** "
    assert "Union of the threat models" not in text


def test_each_threat_model_has_its_attacks_checks_and_curves(loaded: Load) -> None:
    runs = loaded(standard(), trained())
    attacks = section(runs, "Accuracy under every attack")
    assert attacks.count("### digits, L-infinity, eps 0.15") == 1
    assert attacks.count("### digits, L2, eps 0.5") == 1
    assert section(runs, "Accuracy as the attacker’s budget grows").count("accuracy against eps on digits, L2") == 1
    assert "under attack, L2, eps 0.5" in section(runs, "Calibration")


def test_a_suite_in_sequence_says_what_each_attack_added(loaded: Load) -> None:
    text = section(loaded(trained()), "Accuracy under every attack")
    assert "Suite “quick”, a short version of the standard ensemble (used on A pgd-at)." in text
    assert "that of all attacks up to it. A tenth of the budget." in text
    assert "68.7 % (60.9 to 75.5), broke 41 of 144 left" in text
    assert "60.0 % (52.0 to 67.5), broke 13 of 103 left" in text
    assert "broke 0 of 90 left" in text
    assert "cross-entropy loss; 30 steps, the first of 0.3; 1 run" in text
    assert "margin loss; 200 queries; 1 run" in text


def test_a_suite_of_attacks_alone_says_so(loaded: Load) -> None:
    content = trained(suite={"name": "foundation", "sequential": False, "bound": "PGD alone."})
    content["evaluation"]["results"]["square"] |= {"attempted": 144, "broke": 2}
    text = section(loaded(content), "Accuracy under every attack")
    assert "Each of its attacks runs on every example, so the accuracy beside an attack is its own. PGD alone." in text
    assert "first to break 2 of 144" in text


def test_an_attack_that_nothing_was_left_for(loaded: Load) -> None:
    content = trained()
    content["evaluation"]["results"]["square"] = attacked(0.6, 150, 0, 0, attack="square", queries=200)
    assert "none was left to try" in section(loaded(content), "Accuracy under every attack")


def test_an_old_record_beside_a_new_one(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", record("standard", worst=0.04, trained=False, n=150))
    runs = load([old, write(tmp_path / "new", trained())])
    text = section(runs, "Comparison")
    assert "Not compared in pairs: A standard; no outcomes were stored." in text
    assert row(text, "L2, eps 0.5").split("|")[2] == " – "
    assert "(used on B pgd-at)" in section(runs, "Accuracy under every attack")


def test_a_failed_check_under_a_further_threat_model_is_a_warning(loaded: Load, tmp_path: Path) -> None:
    content = trained()
    content["evaluation"]["others"][0]["checks"][3] |= {"verdict": "fail"}
    content["evaluation"]["others"][0]["results"]["square"]["refused"] = 2
    (run,) = loaded(content)
    assert card(run).warnings == [
        "A check failed under L2, eps 0.5 (crosses-the-ball: of crosses-the-ball). "
        "The accuracy under attack may be overstated.",
        "2 adversarial examples lay outside the threat model and were refused.",
    ]
    assert "1 of 28 failed" in section([run], "Comparison")


def test_the_union_is_a_headline(loaded: Load) -> None:
    (run,) = loaded(trained())
    assert [number.label for number in card(run).numbers][2] == "Under the union of 2 threat models"
    assert card(run).numbers[2].value == "30.0 %"

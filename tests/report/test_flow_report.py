"""The report on detectors of flows: its figures, its sections, and what it says when something is missing."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sparring import report
from sparring.report import read

from .factory import record, wilson, write_run

undrawn = pytest.mark.usefixtures("blank")
FIELDS = {"up": ["src_bytes"], "down": [], "free": ["count", "srv_count"], "fixed": ["flag", "land"]}


def share(rate: float, n: int) -> dict[str, Any]:
    """A share as evaluations of flows keep it."""
    found = wilson(rate, n)
    return {"rate": found.pop("accuracy"), **found}


def part(clean: float, attacked: float, n: int) -> dict[str, Any]:
    return {"all": share(clean, 10 * n), "clean": share(clean, n), "attacked": share(attacked, n)}


def flows(clean: float = 0.86, worst: float = 0.8, raised: float = 0.02, seed: int = 0) -> dict[str, Any]:
    """A finished and evaluated detector."""
    n = 200
    made = record("ddos", clean=clean, worst=worst, n=n, seed=seed)
    made["data"] = {"name": "nsl-kdd", "schema": "nsl-kdd", "classes": ["benign", "malicious"], "shape": [114]}
    card = "A summary.\n\n    min max\n\nLearner\n    Learns.\nClaim\n    None."
    made["method"] = {"card": card, "citation": "@article{x}"}
    points = [{"false positives": fp, "detection": clean * fp**0.05} for fp in (0.001, 0.01, 0.1, 1.0)]
    lower = [{**point, "detection": 0.9 * point["detection"]} for point in points]
    attacks = {name: {**wilson(worst + 0.02, n), "parameters": {"steps": 50}} for name in ("capgd", "search")}
    made["evaluation"] = {
        "domain": "flow",
        "n": n,
        "split": "test",
        "threat": {
            "norm": "linf",
            "kind": "feasible flow",
            "eps": 0.1,
            "schema": "nsl-kdd",
            "relations": ["srv_count <= count"],
            "fields": FIELDS,
        },
        "suite": {"name": "flows", "sequential": False, "bound": ""},
        "results": {"clean": wilson(clean, n), **attacks, "worst": wilson(worst, n)},
        "eps_grid": [{"eps": eps, **wilson(worst - eps / 10, n)} for eps in (0.1, 0.2)],
        "unconstrained": [{"eps": eps, **wilson(worst - 2 * eps, n)} for eps in (0.1, 0.2)],
        "checks": [{"name": "feasible", "verdict": "pass", "figure": "0 of 900", "advice": "Look."}],
        "others": [],
        "detector": {"spec": "mlp", "layers": ["autoencoder"], "false_positives": 0.01, "held_out": 1345},
        "detection": share(clean, 7460),
        "false_alarms": share(raised, 2000),
        "at_rates": {
            "1 %": {**part(clean, worst, n), "held_out": share(0.01, 1345), "false_alarms": share(raised, 2000)},
        },
        "auroc": {state: {"value": 0.9, "low": 0.88, "high": 0.92} for state in ("all", "clean", "attacked")},
        "roc": {"benign": 2000, "malicious": n, "clean": points, "attacked": lower},
        "kinds": {"dos": part(clean, worst, n)},
        "types": {"seen": part(0.99, 0.98, 150), "unseen": part(0.4, 0.3, 50)},
        "names": {
            "smurf": {**part(0.99, 0.98, 150), "kind": "dos", "seen": True},
            "worm": {**part(0.4, 0.3, 50), "kind": "dos", "seen": False},
            "land": {"all": share(0.5, 4), "clean": None, "attacked": None, "kind": "dos", "seen": True},
        },
        "command": "sparring evaluate runs/ddos",
        "seconds": 20.0,
    }
    return made


def written(folder: Path, *contents: dict[str, Any]) -> report.Written:
    runs = [write_run(folder / f"run{k}", content) for k, content in enumerate(contents)]
    return report.write(runs, folder / "out")


def sections(text: str) -> dict[str, str]:
    return {part.split("\n", 1)[0]: part for part in text.split("\n## ")[1:]}


@undrawn
def test_one_detector_shows_its_figures(tmp_path: Path) -> None:
    found = written(tmp_path, flows())
    text = found.markdown.read_text()
    assert "raises an alarm on 172 of 200 malicious test flows" in text
    assert "change 3 columns, each by up to 0.1 of its range, and send only what could be sent, 160 still raise" in text
    assert "mlp with autoencoder behind it" in text
    parts = sections(text)
    assert not {"Comparison", "Calibration", "Adversarial examples", "Explanations"} & set(parts)
    assert (
        "| 1 % | A ddos | 86.0 % (80.5 to 90.1) | 80.0 % (73.9 to 85.0) | 2.0 % (1.5 to 2.7) |"
        in parts["Detection and false alarms"]
    )
    assert "| Rows nobody could send | 60.0 %" in parts["Detection under every attack"]
    assert "| worm (unseen), dos | A ddos | 40.0 %" in parts["Detection by type of attack"]
    assert "| land, dos | A ddos | – | – | 0 | 50.0 %" in parts["Detection by type of attack"]
    assert "| May be raised, not lowered | 1 | src_bytes |" in parts["What the attacker may do"]
    assert "- srv_count &lt;= count" in parts["What the attacker may do"]
    assert "| Learner | Learns. |" in parts["Method and citation"]
    assert "min max" in parts["Method and citation"]
    assert "@article{x}" in parts["Method and citation"]
    assert "Could every changed flow have been sent?, feasible" in parts["Checks on the evaluation"]
    assert "All malicious test flows for A ddos: 200 of 7,460 were attacked." in parts["What was not measured"]
    summary = json.loads(found.json.read_text())
    assert summary["groups"] == [{"title": "nsl-kdd, feasible flows within eps 0.1", "runs": ["A"]}]
    assert summary["runs"][0]["evaluation"]["results"]["worst"]["accuracy"] == 0.8
    html = found.html.read_text()
    assert "<script" not in html
    assert html.count('class="plot"') == 1 + 2 + 1 + 2


@undrawn
def test_what_should_make_one_careful_is_said(tmp_path: Path) -> None:
    careful = flows(raised=0.06)
    careful["evaluation"]["checks"][0]["verdict"] = "fail"
    careful["evaluation"]["suite"]["bound"] = "No gradient to follow."
    text = written(tmp_path, careful).markdown.read_text()
    assert "> **Warning.** A check failed (feasible: 0 of 900)." in text
    assert "fixed at 1.0 % false alarms on training flows held out; of the test’s benign flows 6.0 %" in text
    assert "> **Warning.** No gradient to follow." in text
    assert "**Warning.**" not in written(tmp_path / "fine", flows(raised=0.01)).markdown.read_text()


@undrawn
def test_detectors_are_compared_flow_by_flow_at_one_rate_of_false_alarms(tmp_path: Path) -> None:
    runs = [flows(worst=0.8), flows(worst=0.5, seed=1)]

    def both(name: str) -> str:
        folders = [write_run(tmp_path / name / f"run{k}", content) for k, content in enumerate(runs)]
        for folder, worst in zip(folders, (160, 100), strict=True):
            bits = {"clean": np.arange(200) < 172, "worst": np.arange(200) < worst}
            save_file({"rows": np.arange(200), **bits}, folder / "outcomes.safetensors")
        return report.write(folders, tmp_path / name / "out").markdown.read_text()

    row = "| B ddos, seed 1 minus A ddos, seed 0 | Worst case | **−30.0 (−3"
    assert row in both("same")
    assert "| B 0, A 60 | 200 |" in both("again")
    runs[1]["evaluation"]["detector"]["false_positives"] = 0.05
    assert "fixed at different rates of false alarms" in both("other")
    assert row not in both("more")


@undrawn
def test_flows_beside_images_are_kept_apart(tmp_path: Path) -> None:
    found = written(tmp_path, record(), flows())
    text = found.markdown.read_text()
    parts = sections(text)
    assert text.count("the two must not be compared") == 2
    assert "A pgd-at" in parts["Comparison"]
    assert "ddos" not in parts["Comparison"]
    assert "pgd-at" not in parts["Detectors of flows"]
    for shared in ("Training", "Cost", "Checks on the evaluation", "Configuration and reproduction"):
        assert "pgd-at" in parts[shared]
        assert "ddos" in parts[shared]
    assert "in 2 groups that do not compare: digits, L-infinity, eps 0.15; nsl-kdd, feasible flows" in text


@undrawn
def test_a_record_may_lack_anything(tmp_path: Path) -> None:
    whole = flows()
    alone = {"data": whole["data"], "system": "ddos"}
    text = written(tmp_path / "bare", alone).markdown.read_text()
    assert "There is no evaluation. Run “sparring evaluate”" in text
    for k, key in enumerate(whole["evaluation"]):
        less = copy.deepcopy(whole)
        del less["evaluation"][key]
        assert written(tmp_path / str(k), less).html.exists(), key
    odd = copy.deepcopy(whole)
    odd["evaluation"] |= {"names": 3, "roc": "x", "at_rates": [], "auroc": None}
    odd["evaluation"]["threat"] = {"fields": 1, "relations": {}}
    assert written(tmp_path / "odd", odd).html.exists()


def test_the_roc_curve_says_what_it_draws(tmp_path: Path) -> None:
    html = written(tmp_path, flows(), flows(seed=1, worst=0.5)).html.read_text()
    assert "A ddos, seed 0, clean: 86.0 % at 2 % false alarms" in html
    assert "B ddos, seed 1, attacked: 50.0 % at 2 % false alarms" in html
    assert "False alarms on benign test flows, %" in html
    assert "ROC curves. ddos, seed 0: area 0.900 (0.880 to 0.920)" in html
    assert read.load([tmp_path / "run0"])[0].name == "ddos"

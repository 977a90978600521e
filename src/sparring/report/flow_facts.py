"""What the report asks of a run on network flows, or on another table with rules of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.report import facts, words
from sparring.report.facts import Group
from sparring.report.read import Estimate, Run, estimate, find, mapping, number, text

ATTACKS = {
    "clean": "As they came",
    "capgd": "CAPGD, by gradient",
    "transfer": "Transfer from a copy",
    "search": "Black-box search",
    "generated": "Generated flows mimicked",
    "idsgan": "IDSGAN",
    "worst": "Worst case",
}
"""The attacks, as a reader calls them."""


def is_flow(run: Run) -> bool:
    """Whether a run is about rows of a schema."""
    return bool(text(run.record, "data", "schema"))


def evaluation(run: Run) -> Mapping[str, Any]:
    """The evaluation of a detector; empty where there is none."""
    found = mapping(run.record, "evaluation")
    return found if text(found, "domain") == "flow" else {}


def evaluated(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if evaluation(run)]


def rate(run: Run, *keys: str) -> Estimate | None:
    """The share under nested keys of the evaluation."""
    return estimate(mapping(evaluation(run), *keys), "rate")


def false_alarms(run: Run) -> Estimate | None:
    """On the test's benign flows, at the detector's own threshold."""
    return rate(run, "false_alarms")


def promised(run: Run) -> float | None:
    """The share of held-out benign flows that the threshold was fixed at."""
    return number(evaluation(run), "detector", "false_positives")


def area(run: Run, state: str) -> Estimate | None:
    """The area under the ROC curve."""
    return estimate(mapping(evaluation(run), "auroc", state), "value")


def attack(name: str) -> str:
    return ATTACKS.get(name, name)


def detector(run: Run) -> str:
    """ "mlp with autoencoder behind it"."""
    spec = text(evaluation(run), "detector", "spec") or text(run.record, "model", "spec") or "a detector"
    layers = mapping(evaluation(run), "detector").get("layers")
    behind = [layer for layer in layers if isinstance(layer, str)] if isinstance(layers, list) else []
    return f"{spec} with {words.listing(behind)} behind it" if behind else spec


def threat_name(run: Run) -> str:
    """ "feasible flows within eps 0.1"."""
    eps = number(facts.threat(run), "eps")
    return "feasible flows" if eps is None else f"feasible flows within eps {eps:g}"


def title(group: Group) -> str:
    """ "nsl-kdd (dos), feasible flows within eps 0.1", and a fingerprint where that is not one group's alone."""
    run = group.runs[0]
    kinds = find(run.record, "data", "kinds")
    named = [kind for kind in kinds if isinstance(kind, str)] if isinstance(kinds, list) else []
    which = f" ({words.listing(named)})" if named and named != ["all"] else ""
    _, mark, rest = group.title.partition(" (data fingerprint ")
    return f"{facts.data(run)}{which}, {threat_name(run)}{mark}{rest}"

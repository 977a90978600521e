"""What the report asks of a run: its data, its threat model, its headline estimates, and which runs compare."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparring.report import words
from sparring.report.blocks import Block, Mark, Text
from sparring.report.read import Estimate, Run, count, estimate, find, items, mapping, number, text


@dataclass(frozen=True)
class Group:
    """Runs on the same data under the same threat model: the only ones whose numbers may be put side by side."""

    title: str
    runs: Sequence[Run]


@dataclass(frozen=True)
class Suite:
    """How a run was attacked. `sequential`: each attack saw only what those before it left standing."""

    name: str
    sequential: bool
    bound: str


def mark(run: Run) -> Mark:
    return Mark(run.letter, run.name, run.index)


def label(run: Run) -> str:
    """ "A pgd-at"."""
    return f"{run.letter} {run.name}"


def views(run: Run) -> list[Run]:
    """The run as evaluated under each of its threat models alone: what was found under the first is the run itself."""
    evaluation = mapping(run.record, "evaluation")
    shared = {key: evaluation[key] for key in ("split", "seed", "weights", "command") if key in evaluation}
    others = items(evaluation, "others")
    return [run, *(replace(run, record={**run.record, "evaluation": {**shared, **other}}) for other in others)]


def suite(run: Run) -> Suite | None:
    """None for a record that names none."""
    found = mapping(run.record, "evaluation", "suite")
    name = text(found, "name")
    return Suite(name, find(found, "sequential") is True, text(found, "bound")) if name else None


def union(run: Run) -> Estimate | None:
    """Accuracy when the adversary may choose among all threat models of the evaluation."""
    return estimate(find(run.record, "evaluation", "union"))


def adversarial(run: Run) -> bool:
    """Whether the run trained against an adversary: every system but standard training, and a model from elsewhere."""
    return text(run.record, "system") not in ("", "standard", "external")


def evaluated(run: Run) -> bool:
    """Whether the record holds the accuracy under at least one attack, or without any."""
    return any(estimate(result) is not None for result in results(run).values())


def results(run: Run) -> Mapping[str, Any]:
    """Attack name to result, no attack first, the worst case behind all attacks, what is certified last."""
    found = mapping(run.record, "evaluation", "results")
    order = {"clean": 0, "worst": 2, "certified": 3}
    return {name: found[name] for name in sorted(found, key=lambda name: order.get(name, 1))}


def attacks(run: Run) -> list[str]:
    """The attacks tried: every result but the three that are none."""
    none = ("clean", "worst", "certified")
    return [name for name, result in results(run).items() if name not in none and estimate(result)]


def clean(run: Run) -> Estimate | None:
    return estimate(results(run).get("clean"))


def worst(run: Run) -> Estimate | None:
    """The worst case per example; where the record lacks it, the strongest single attack, which is at least as high."""
    whole = estimate(results(run).get("worst"))
    single = [e for name in attacks(run) if (e := estimate(results(run)[name])) is not None]
    return whole or min(single, key=lambda e: e.value, default=None)


def worst_label(run: Run) -> str:
    return "Worst-case accuracy" if estimate(results(run).get("worst")) else "Under the strongest attack tried"


def threat(run: Run) -> Mapping[str, Any]:
    """What the evaluation attacked with; before one, what the configuration trained with."""
    measured = mapping(run.record, "evaluation", "threat")
    if measured:
        return measured
    configured = find(run.record, "config", "threat")
    if isinstance(configured, Mapping):
        return configured
    return {"norm": configured, "eps": find(run.record, "config", "eps")} if isinstance(configured, str) else {}


def training_eps(run: Run) -> float | None:
    """The eps that the model trained against, which a sweep marks; None if in another norm, or without an adversary."""
    configured = find(run.record, "config", "threat")
    norm = text(configured, "norm") if isinstance(configured, Mapping) else configured
    if not adversarial(run) or norm != text(threat(run), "norm"):
        return None
    eps = number(run.record, "config", "eps")
    return eps if eps is not None else number(configured, "eps")


def data(run: Run) -> str:
    return text(run.record, "data", "name") or "unnamed data"


def is_image(run: Run) -> bool:
    shape = find(run.record, "data", "shape")
    return isinstance(shape, list) and len(shape) == 3


def thing(run: Run) -> str:
    """What an input consists of."""
    return "pixel" if is_image(run) else "input value"


def class_name(run: Run, label: int) -> str:
    """A class as the data set calls it, or its number."""
    classes = find(run.record, "data", "classes")
    known = isinstance(classes, list) and 0 <= label < len(classes)
    return words.plain(classes[label]) if known and isinstance(classes, list) else str(label)


def examples(run: Run, n: int | None) -> str:
    """ "450 test images"."""
    noun = "images" if is_image(run) else "examples"
    split = text(run.record, "evaluation", "split")
    return " ".join(part for part in (words.whole(n) if n is not None else "", split, noun) if part)


def status(run: Run) -> str:
    return text(run.record, "status") or "unknown"


def failed(run: Run) -> list[Mapping[str, Any]]:
    return [check for check in checks(run) if text(check, "verdict") != "pass"]


def all_checks(run: Run) -> tuple[int, int]:
    """How many checks failed, of how many, under all threat models of the evaluation."""
    each = views(run)
    return sum(len(failed(view)) for view in each), sum(len(checks(view)) for view in each)


def checks(run: Run) -> list[Mapping[str, Any]]:
    return items(run.record, "evaluation", "checks")


def refused(run: Run) -> int:
    """Adversarial examples that lay outside the threat model, over all attacks of one suite."""
    return sum(count(result, "refused") or 0 for result in results(run).values())


def groups(runs: Sequence[Run]) -> list[Group]:
    """The runs by data and threat model, in order of first appearance."""
    found: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        found.setdefault((*data_key(run), repr(threat_key(threat(run)))), []).append(run)
    titles = [f"{data(members[0])}, {words.threat_name(threat(members[0]))}" for members in found.values()]
    same = Counter(titles)
    for i, members in enumerate(found.values()):
        if same[titles[i]] > 1 and (fingerprint := text(members[0].record, "data", "fingerprint")):
            titles[i] += f" (data fingerprint {fingerprint[:12]})"
    return [Group(title, members) for title, members in zip(titles, found.values(), strict=True)]


def by_data(runs: Sequence[Run]) -> list[Group]:
    """The runs by data alone, for what does not depend on the threat model."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault(data_key(run), []).append(run)
    same = Counter(name for name, _ in found)
    titles = [f"{name} (data fingerprint {mark[:12]})" if same[name] > 1 and mark else name for name, mark in found]
    return [Group(title, members) for title, members in zip(titles, found.values(), strict=True)]


def data_key(run: Run) -> tuple[str, str]:
    return data(run), text(run.record, "data", "fingerprint")


def lacking(runs: Sequence[Run], has: Callable[[Run], bool], what: str) -> list[Block]:
    """A note on the runs whose record lacks what a section shows; nothing when none does."""
    names = [label(run) for run in runs if not has(run)]
    return [Text(f"Not shown: the record of {words.listing(names)} holds {what}.", note=True)] if names else []


def threat_key(described: Mapping[str, Any]) -> object:
    """A threat model without what a record made before evaluation leaves out: default bounds, an L1 step's sparsity."""
    bounds = {"low": 0.0, "high": 1.0}
    kept = {name: value for name, value in described.items() if name != "sparsity" and value is not None}
    return sorted((name, repr(value)) for name, value in (bounds | kept).items())

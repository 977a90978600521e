"""Runs held against each other example by example: the difference of two accuracies on the same test images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from sparring.report import facts, words
from sparring.report.blocks import Block, Cell, Heading, Table, Text, Tone
from sparring.report.facts import Group
from sparring.report.read import Estimate, Run, count, estimate, number

if TYPE_CHECKING:
    import numpy as np

WHAT = (("clean", "No attack"), ("worst", "Worst case"), ("union", "Union of the threat models"))
"""What is compared, by its name in `outcomes.safetensors`, and as a reader calls it."""

MOST = 4
"""Runs of which every pair is compared; of more, each is compared with one."""


@dataclass(frozen=True)
class Difference:
    """The accuracy of `second` minus that of `first`, as `sparring.evaluation.paired.difference` gives it."""

    first: Run
    second: Run
    what: str
    figures: Mapping[str, Any]

    def summary(self) -> dict[str, object]:
        """For `report.json`."""
        return {"first": self.first.letter, "second": self.second.letter, "what": self.what, **self.figures}


def differences(group: Group) -> tuple[list[Difference], list[str]]:
    """All differences between runs of a group that may be taken, and why others may not."""
    able, notes = _able(group)
    alike: list[list[Run]] = []
    for run in able:
        for others in alike:
            if _same_rows(run, others[0]):
                others.append(run)
                break
        else:
            alike.append([run])
    if len(alike) > 1:
        parts = [words.listing([facts.label(run) for run in runs]) for runs in alike]
        notes.append(f"Evaluated on different test examples, and so not compared in pairs: {'; '.join(parts)}.")
    pairs = [pair for runs in alike for pair in _pairs(runs)]
    suites = {facts.label(run): facts.suite(run) for pair in pairs for run in pair}
    if len(set(suites.values())) > 1:
        named = [f"{label}: {suite.name if suite else 'not recorded'}" for label, suite in suites.items()]
        notes.append(
            f"The suites of attacks differ ({'; '.join(named)}). The weaker suite leaves more standing, so a "
            "difference under attack is not that of the models alone."
        )
    found = []
    for first, second in pairs:
        one, other = first.outcomes.tensors or {}, second.outcomes.tensors or {}
        for what, _ in WHAT:
            if what in one and what in other and (what != "union" or _threats(first) == _threats(second)):
                found.append(Difference(first, second, what, _difference(other[what], one[what])))
    return found, notes


def _able(group: Group) -> tuple[list[Run], list[str]]:
    """The runs whose outcomes can be used, and why those of others cannot."""
    able = []
    absent: dict[str, list[str]] = {}
    for run in group.runs:
        problem = _problem(run)
        if not problem:
            able.append(run)
        elif facts.evaluated(run):
            absent.setdefault(problem, []).append(facts.label(run))
    notes = [f"Not compared in pairs: {words.listing(names)}; {problem}." for problem, names in absent.items()]
    return able, notes


def blocks(group: Group, *, titled: bool) -> list[Block]:
    """The table of all differences in a group, and the notes; nothing for a run alone."""
    if len(group.runs) < 2:
        return []
    found, notes = differences(group)
    said: list[Block] = [Heading(f"Differences on {group.title}" if titled else "Differences, example by example")]
    if found:
        said.append(
            Text(
                "Runs that were evaluated on the same test examples are compared example by example. That finds "
                "smaller differences than two intervals side by side. p is the chance of a difference at least this "
                "large if the two were equally good (McNemar’s exact test)."
                + (" It is not corrected for the number of comparisons." if len(found) > 1 else "")
            )
        )
        said.append(_table(group, found))
    return [*said, *(Text(note, note=True) for note in notes)] if found or notes else []


def _table(group: Group, found: Sequence[Difference]) -> Table:
    head = ["Runs", "Accuracy", "Difference in points", "p", "Right in one only", "n"]
    rows = []
    for each in found:
        figures = each.figures
        low, high = number(figures, "low"), number(figures, "high")
        apart = low is not None and high is not None and (low > 0 or high < 0)
        tone: Tone = "strong" if apart else ""
        rows.append(
            [
                Cell(f"{facts.label(each.second)} minus {facts.label(each.first)}"),
                Cell(dict(WHAT)[each.what]),
                Cell(words.points(figures["difference"], low, high), tone),
                Cell(words.chance(figures["p"])),
                Cell(
                    f"{each.second.letter} {words.whole(count(figures, 'only_second'))}, "
                    f"{each.first.letter} {words.whole(count(figures, 'only_first'))}"
                ),
                Cell(words.whole(count(figures, "n"))),
            ]
        )
    caption = f"Paired differences on {group.title}, with 95 % intervals. Bold: the interval leaves out zero."
    return Table(caption, [Cell(title) for title in head], rows)


def _pairs(runs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Every pair; of many runs, each with standard training, or with the first."""
    if len(runs) <= MOST:
        yield from combinations(runs, 2)
        return
    base = next((run for run in runs if not facts.adversarial(run)), runs[0])
    yield from ((base, run) for run in runs if run is not base)


def _problem(run: Run) -> str:
    """Why the outcomes of a run cannot be used, or ""."""
    tensors = run.outcomes.tensors
    if tensors is None:
        return run.outcomes.problem
    for what in ("clean", "worst"):
        e = estimate(facts.results(run).get(what))
        if what not in tensors or e is None or not _matches(tensors[what], e):
            return "outcomes.safetensors is not from the evaluation in its record"
    return ""


def _matches(right: "np.ndarray[Any, Any]", e: Estimate) -> bool:
    return e.n == len(right) and abs(float(right.mean()) - e.value) < 1e-6


def _same_rows(one: Run, other: Run) -> bool:
    a, b = (run.outcomes.tensors["rows"] for run in (one, other) if run.outcomes.tensors is not None)
    return bool(a.shape == b.shape and (a == b).all())


def _threats(run: Run) -> list[str]:
    """The threat models of a union, in an order of their own."""
    return sorted(repr(facts.threat_key(facts.threat(view))) for view in facts.views(run))


def _difference(second: "np.ndarray[Any, Any]", first: "np.ndarray[Any, Any]") -> dict[str, Any]:
    import torch  # only where there is something to compare: a report of one run needs no torch

    from sparring.evaluation.paired import difference

    found = difference(torch.from_numpy(second.copy()), torch.from_numpy(first.copy()))
    kept = {key: found[key] for key in ("difference", "low", "high", "p", "n")}
    return {**kept, "only_first": found["only_b"], "only_second": found["only_a"]}

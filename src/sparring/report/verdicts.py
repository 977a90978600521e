"""Did adversarial training help beyond accuracy under attack? An answer only where the intervals give one.

Every adversarially trained run is held against the run of standard training in the same group. Two estimates differ
where their 95 % intervals do not overlap, which is stricter than a test of their difference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sparring.report import calibration, corruptions, explained, facts, words
from sparring.report.blocks import Block, Cell, Heading, Table, Text, Tone
from sparring.report.facts import Group
from sparring.report.read import Estimate, Run, find

Answer = Literal["yes", "no, worse", "mixed", "cannot tell"]
TONES: dict[Answer, Tone] = {"yes": "good", "no, worse": "bad", "mixed": "", "cannot tell": "quiet"}

APART = "the intervals do not overlap"
OVERLAP = "the intervals overlap"


@dataclass(frozen=True)
class Verdict:
    """Whether a run is better than its baseline in one aspect, and the evidence in words."""

    run: Run
    baseline: Run
    aspect: str
    answer: Answer
    evidence: str

    def summary(self) -> dict[str, object]:
        """For `report.json`."""
        return {
            "run": self.run.letter,
            "baseline": self.baseline.letter,
            "aspect": self.aspect,
            "improved": self.answer,
            "evidence": self.evidence,
        }


def verdicts(runs: Sequence[Run]) -> list[Verdict]:
    """One for each adversarially trained run that has a baseline in its group, and each aspect that was measured."""
    return [
        verdict
        for group in facts.groups(runs)
        for run in group.runs
        if facts.adversarial(run) and (base := _baseline(group, run)) is not None
        for verdict in _aspects(run, base)
    ]


def blocks(runs: Sequence[Run]) -> list[Block]:
    """The question, the answers, and where there are none, why."""
    title = Heading("Did adversarial training help here?")
    trained = [run for run in runs if facts.adversarial(run) and facts.evaluated(run)]
    if not trained:
        return []
    found = verdicts(runs)
    judged = {verdict.run.index for verdict in found}
    alone = [run for run in trained if run.index not in judged]
    said: list[Block] = [title]
    if found:
        said += [Text(_lead(runs, found)), _table(found)]
    if alone:
        names = words.listing([facts.label(run) for run in alone])
        said.append(
            Text(
                f"Cannot tell for {names}: the report holds no standard training on the same data that was evaluated "
                "under the same threat model and measured alike.",
                note=True,
            )
        )
    return said


def _lead(runs: Sequence[Run], found: Sequence[Verdict]) -> str:
    bases = {verdict.baseline.index: facts.label(verdict.baseline) for verdict in found}
    said = (
        f"Each adversarially trained run against standard training ({words.listing(list(bases.values()))}). “Yes” and "
        "“no” stand only where the two 95 % intervals do not overlap."
    )
    systems = [(find(run.record, "system"), repr(find(run.record, "seed"))) for run in runs]
    once = any(len({seed for name, seed in systems if name == system}) == 1 for system, _ in systems)
    return said + (" Trained once each, runs may also differ by their seed alone." if once else "")


def _table(found: Sequence[Verdict]) -> Table:
    head = [Cell(title) for title in ("Aspect", "Run", "Better than standard?", "Evidence")]
    rows = [
        [
            Cell(each.aspect),
            Cell(each.run.name, mark=facts.mark(each.run)),
            Cell(each.answer, TONES[each.answer]),
            Cell(words.sentence(each.evidence)),
        ]
        for each in found
    ]
    return Table("What adversarial training changed beyond accuracy under attack.", head, rows)


def _baseline(group: Group, run: Run) -> Run | None:
    """Standard training in the same group, of the same seed if there is one."""
    found = [other for other in group.runs if find(other.record, "system") == "standard" and facts.evaluated(other)]
    same = [other for other in found if find(other.record, "seed") == find(run.record, "seed")]
    return next(iter([*same, *found]), None)


def _aspects(run: Run, base: Run) -> Iterator[Verdict]:
    """Shift, calibration, interpretability: those that both were measured in."""

    def verdict(aspect: str, answer: Answer, evidence: str) -> Verdict:
        return Verdict(run, base, aspect, answer, evidence)

    one, other = corruptions.mean(run), corruptions.mean(base)
    if one and other:
        answer, why = compared(one, other, more=True)
        yield verdict("Accuracy under corruptions", answer, _against(words.share(one), words.share(other), why, one))
    for state, title in calibration.STATES:
        one, other = calibration.ece(run, state), calibration.ece(base, state)
        if one and other:
            answer, why = compared(one, other, more=False)
            evidence = _against(f"ECE {words.error(one)}", words.error(other), why, one)
            if one.n != other.n:
                answer, evidence = "cannot tell", f"{evidence}; ECE depends on n, which differs"
            if state == "attacked" and facts.suite(run) != facts.suite(base):
                answer, evidence = "cannot tell", f"{evidence}; the suites of attacks differ"
            yield verdict(f"Calibration {title}", answer, evidence)
    for method in explained.methods(run):
        if method in explained.methods(base):
            name = words.method(method)
            yield verdict(f"Faithful explanations: {name}", *_faithful(run, base, method))
            yield verdict(f"Stable explanations: {name}", *_stable(run, base, method))


def _faithful(run: Run, base: Run, method: str) -> tuple[Answer, str]:
    """By the advantage over a random order on clean inputs, in each of the measures of faithfulness."""
    better, worse, said = 0, 0, []
    for name, one in explained.advantages(run, method, "clean").items():
        other = explained.advantages(base, method, "clean").get(name)
        if other is not None:
            answer, _ = compared(one, other, more=True)
            better, worse = better + (answer == "yes"), worse + (answer == "no, worse")
            said.append(f"{name} {words.error(one)} against {words.error(other)}")
    evidence = f"advantage over a random order on clean inputs: {'; '.join(said)}"
    if not said:
        return "cannot tell", "no measure of faithfulness in both records"
    if better and worse:
        return "mixed", f"{evidence}. Of {len(said)} measures {better} are better and {worse} worse"
    if not better and not worse:
        return "cannot tell", f"{evidence}. All intervals overlap"
    answer = "yes" if better else "no, worse"
    return answer, f"{evidence}. In {better or worse} of {len(said)} the intervals do not overlap"


def _stable(run: Run, base: Run, method: str) -> tuple[Answer, str]:
    """By the cosine between clean and attacked map, which counts only where both runs' maps are faithful."""
    one, other = explained.stability(run, method), explained.stability(base, method)
    if one is None or other is None:
        return "cannot tell", "not in both records"
    answer, why = compared(one, other, more=True)
    evidence = _against(f"cosine {words.error(one)}", words.error(other), why, one)
    blind = [facts.label(each) for each in (run, base) if not explained.faithful(each, method)]
    if blind:
        return "cannot tell", f"{evidence}; but maps of {words.listing(blind)} are no better than a random order"
    if facts.suite(run) != facts.suite(base):
        return "cannot tell", f"{evidence}; the suites of attacks differ"
    return answer, evidence


def compared(one: Estimate, other: Estimate, *, more: bool) -> tuple[Answer, str]:
    """Whether one is better than other; `more`: higher is better."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return "cannot tell", "there is no interval"
    if one.low > other.high:
        return ("yes" if more else "no, worse"), APART
    if one.high < other.low:
        return ("no, worse" if more else "yes"), APART
    return "cannot tell", OVERLAP


def _against(one: str, other: str, why: str, e: Estimate) -> str:
    counted = f", n = {words.whole(e.n)}" if e.n is not None else ""
    return f"{one} against {other}{counted}; {why}"

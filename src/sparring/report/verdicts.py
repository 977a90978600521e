"""Did adversarial training help beyond accuracy under attack? An answer only where the intervals give one.

Every adversarially trained run is held against the run of standard training in the same group. Two estimates differ
where their 95 % intervals do not overlap, which is stricter than a test of their difference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sparring.report import calibration, corruptions, explained, facts, unseen, words
from sparring.report.blocks import Block, Cell, Heading, Table, Text, Tone
from sparring.report.facts import Group
from sparring.report.read import Estimate, Run, find

Answer = Literal["yes", "in part", "no, worse", "no, worse in part", "mixed", "cannot tell"]
TONES: dict[Answer, Tone] = {"yes": "good", "no, worse": "bad", "cannot tell": "quiet"}
SAID: tuple[tuple[str, tuple[Answer, ...]], ...] = (
    ("is better in", ("yes", "in part")),
    ("is worse in", ("no, worse", "no, worse in part")),
    ("is better here and worse there in", ("mixed",)),
    ("cannot be told apart in", ("cannot tell",)),
)
UNFOLDED = 4
"""Runs whose evidence is shown at once; of more, it is folded away."""


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
    trained = [run for run in runs if facts.adversarial(run) and facts.evaluated(run)]
    if not trained:
        return []
    found = verdicts(runs)
    said: list[Block] = [Heading("Did adversarial training help here?")]
    said += [Text(_lead(runs))] if found else []
    judged = list(dict.fromkeys(verdict.run.index for verdict in found))
    for index in judged:
        own = [each for each in found if each.run.index == index]
        said += [Text(_in_words(own)), _table(own, folded=len(judged) > UNFOLDED)]
    if alone := [facts.label(run) for run in trained if run.index not in judged]:
        said.append(
            Text(
                f"Cannot tell for {words.listing(alone)}: the report holds no standard training on the same data that "
                "was evaluated under the same threat model and measured alike.",
                note=True,
            )
        )
    return said


def _lead(runs: Sequence[Run]) -> str:
    said = (
        "Each adversarially trained run is held against standard training on the same data. “Yes” and “no” stand only "
        "where two 95 % intervals do not overlap; otherwise nobody can tell."
    )
    systems = [(find(run.record, "system"), repr(find(run.record, "seed"))) for run in runs]
    once = any(len({seed for name, seed in systems if name == system}) == 1 for system, _ in systems)
    return said + (" Runs that were trained once may also differ by their seed alone." if once else "")


def _in_words(own: Sequence[Verdict]) -> str:
    """Better in this, worse in that, the rest unknown."""
    parts = []
    for start, answers in SAID:
        names = [
            each.aspect[:1].lower() + each.aspect[1:] + (" (in part)" if each.answer.endswith("in part") else "")
            for each in own
            if each.answer in answers
        ]
        parts += [f"{start} {words.listing(names)}"] if names else []
    return f"Against {facts.label(own[0].baseline)}, {facts.label(own[0].run)} {'; it '.join(parts)}."


def _table(own: Sequence[Verdict], *, folded: bool) -> Table:
    head = [Cell("Aspect"), Cell("Better than standard training?")]
    rows = [
        [Cell(each.aspect), Cell(each.answer, TONES.get(each.answer, ""), detail=words.sentence(each.evidence))]
        for each in own
    ]
    title = f"{facts.label(own[0].run)} against {facts.label(own[0].baseline)}: the evidence"
    return Table(title if folded else f"{title}.", head, rows, folded=folded)


def _baseline(group: Group, run: Run) -> Run | None:
    """Standard training in the same group, of the same seed if there is one."""
    found = [other for other in group.runs if find(other.record, "system") == "standard" and facts.evaluated(other)]
    same = [other for other in found if find(other.record, "seed") == find(run.record, "seed")]
    return next(iter([*same, *found]), None)


def _aspects(run: Run, base: Run) -> Iterator[Verdict]:
    """Unseen threats, shift, calibration, interpretability: those that both were measured in."""

    def verdict(aspect: str, answer: Answer, evidence: str) -> Verdict:
        return Verdict(run, base, aspect, answer, evidence)

    if pairs := unseen.pairs(run, base):
        named = [(name, words.share(one), words.share(other), one, other) for name, one, other in pairs]
        yield verdict("Threat models not trained against", *_tally(named))
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
                answer, evidence = "cannot tell", f"{evidence}; but ECE depends on n, which differs"
            if state == "attacked" and facts.suite(run) != facts.suite(base):
                answer, evidence = "cannot tell", f"{evidence}; but the suites of attacks differ"
            yield verdict(f"Calibration {title}", answer, evidence)
    for method in explained.methods(run):
        if method in explained.methods(base):
            name = words.method(method)
            yield verdict(f"Faithfulness of {name} maps", *_faithful(run, base, method))
            yield verdict(f"Stability of {name} maps", *_stable(run, base, method))


def _faithful(run: Run, base: Run, method: str) -> tuple[Answer, str]:
    """By the advantage over a random order on clean inputs, in each of the measures of faithfulness."""
    others = explained.advantages(base, method, "clean")
    named = [
        (name, words.error(one), words.error(other), one, other)
        for name, one in explained.advantages(run, method, "clean").items()
        if (other := others.get(name)) is not None
    ]
    if not named:
        return "cannot tell", "no measure of faithfulness in both records"
    answer, evidence = _tally(named)
    return answer, f"advantage over a random order on clean inputs: {evidence}"


def _tally(named: Sequence[tuple[str, str, str, Estimate, Estimate]]) -> tuple[Answer, str]:
    """Several figures, each with its name and both sides in words; higher is better in all of them."""
    answers = [compared(one, other, more=True)[0] for *_, one, other in named]
    better, worse = answers.count("yes"), answers.count("no, worse")
    counted = f", n = {words.whole(named[0][3].n)}" if named[0][3].n is not None else ""
    listed = "; ".join(f"{name} {mine} against {its}" for name, mine, its, _, _ in named)
    evidence = f"{listed}{counted}. Clearly better in {better} of {len(named)}, clearly worse in {worse}"
    if better and worse:
        return "mixed", evidence
    if not better and not worse:
        return "cannot tell", evidence
    if better + worse < len(named):
        return ("in part" if better else "no, worse in part"), evidence
    return ("yes" if better else "no, worse"), evidence


def _stable(run: Run, base: Run, method: str) -> tuple[Answer, str]:
    """By the cosine between clean and attacked map, which counts only where both runs' maps are faithful."""
    one, other = explained.stability(run, method), explained.stability(base, method)
    if one is None or other is None:
        return "cannot tell", "not in both records"
    answer, why = compared(one, other, more=True)
    evidence = _against(f"cosine {words.error(one)}", words.error(other), why, one)
    blind = [facts.label(each) for each in (run, base) if not explained.faithful(each, method)]
    if blind:
        return "cannot tell", f"{evidence}; but the maps of {words.listing(blind)} are not faithful"
    if facts.suite(run) != facts.suite(base):
        return "cannot tell", f"{evidence}; but the suites of attacks differ"
    return answer, evidence


def compared(one: Estimate, other: Estimate, *, more: bool) -> tuple[Answer, str]:
    """Whether one is better than other; `more`: higher is better."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return "cannot tell", "there is no interval"
    if other.high < one.low or one.high < other.low:
        return ("yes" if (one.value > other.value) == more else "no, worse"), "the intervals do not overlap"
    return "cannot tell", "the intervals overlap"


def _against(one: str, other: str, why: str, e: Estimate) -> str:
    counted = f", n = {words.whole(e.n)}" if e.n is not None else ""
    return f"{one} against {other}{counted}; {why}"

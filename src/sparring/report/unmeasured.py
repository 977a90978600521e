"""What a record does not show. A report is honest when it says where it stops."""

from collections.abc import Callable, Sequence

from sparring.report import facts, words
from sparring.report.read import Run, count, estimate, find, items, mapping, number, text

BLACK_BOX = ("square", "nes", "spsa", "boundary", "hopskipjump", "simba", "transfer", "score", "decision")
"""Attacks that use no gradient, by a part of their name."""


def unmeasured(runs: Sequence[Run]) -> list[str]:
    """Sentences, those that concern every run last."""
    some = [run for run in runs if facts.evaluated(run)]
    found = _absent(runs, some)
    found += _seeds(runs)
    if some:
        found += _attacks(some)
        if not any("shift" in mapping(run.record, "evaluation") for run in some):
            found.append("Inputs from another source than the training data: no corruption or distribution shift.")
        found.append("A guarantee: accuracy under attack is an upper bound, which a better attack can only lower.")
    return found


def _absent(runs: Sequence[Run], some: Sequence[Run]) -> list[str]:
    def names(chosen: Sequence[Run]) -> str:
        return words.listing([f"{run.letter} {run.name}" for run in chosen])

    found = []
    if nothing := [run for run in runs if run not in some]:
        found.append(f"Anything about the accuracy of {names(nothing)}: not evaluated.")
    if partly := [run for run in runs if facts.status(run) != "done"]:
        found.append(f"The finished training of {names(partly)}: its record ends early.")
    for run in some:
        n, test = count(run.record, "evaluation", "n"), count(run.record, "data", "test")
        split = text(run.record, "evaluation", "split")
        if split and split != "test":
            found.append(f"Accuracy of {names([run])} on test data: it was evaluated on the {split} split.")
        elif n is not None and test is not None and n < test:
            share = f"{words.whole(n)} of {words.whole(test)} examples were attacked"
            found.append(f"The whole test set for {names([run])}: {share}.")
    parts: tuple[tuple[str, Callable[[Run], bool]], ...] = (
        ("Worst case per example", lambda run: estimate(facts.results(run).get("worst")) is not None),
        ("Other values of eps", lambda run: bool(items(run.record, "evaluation", "eps_grid"))),
        ("Other numbers of attack steps", lambda run: bool(items(run.record, "evaluation", "steps_grid"))),
        ("Calibration", lambda run: bool(mapping(run.record, "evaluation", "calibration"))),
        ("Checks for gradient masking", lambda run: bool(facts.checks(run))),
        ("Cost beside standard training", lambda run: number(run.record, "timing", "step_ratio") is not None),
    )
    for what, has in parts:
        if some and (lacking := [run for run in some if not has(run)]):
            found.append(f"{what}: not recorded for {names(lacking)}.")
    return found


def _seeds(runs: Sequence[Run]) -> list[str]:
    """Methods that were trained once only."""
    seeds: dict[tuple[str, str], set[str]] = {}
    for group in facts.groups(runs):
        for run in group.runs:
            key = (text(run.record, "system") or run.name, group.title)
            seeds.setdefault(key, set()).add(repr(find(run.record, "seed")))
    once = sorted({system for (system, _), found in seeds.items() if len(found) == 1})
    if not once:
        return []
    were = "were each" if len(once) > 1 else "was"
    return [f"Other seeds: {words.listing(once)} {were} trained only once, so the spread between trainings is unknown."]


def _attacks(some: Sequence[Run]) -> list[str]:
    found = []
    names = {name.lower() for run in some for name in facts.attacks(run)}
    names |= {
        text(mapping(result), "parameters", "attack").lower() for run in some for result in facts.results(run).values()
    }
    if not any(part in name for name in names for part in BLACK_BOX):
        found.append("Black-box attacks, which use no gradient and so do not suffer when gradients mislead.")
    found.append("Adaptive attacks: nobody designed an attack against these particular models.")
    norms = [words.norm(norm) for norm in dict.fromkeys(text(facts.threat(run), "norm") for run in some) if norm]
    if norms:
        found.append(f"Other threat models than {words.listing(norms)}: robustness in one norm does not carry over.")
    return found

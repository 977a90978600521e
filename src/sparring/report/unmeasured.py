"""What a record does not show. A report is honest when it says where it stops."""

from collections.abc import Callable, Sequence

from sparring.report import facts, unseen, words
from sparring.report.read import Run, count, estimate, find, items, mapping, number, text

BLACK_BOX = (
    "square",
    "nes",
    "spsa",
    "boundary",
    "hopskipjump",
    "hop_skip_jump",
    "simba",
    "transfer",
    "score",
    "decision",
)
"""Attacks that use no gradient, by a part of their name."""


def unmeasured(runs: Sequence[Run]) -> list[str]:
    """Sentences, those that concern every run last."""
    some = [run for run in runs if facts.evaluated(run)]
    found = _absent(runs, some)
    found += _seeds(runs)
    if some:
        found += _attacks(some)
        found += _threats(some)
        found.append("A guarantee: accuracy under attack is an upper bound, which a better attack can only lower.")
    return found


def _absent(runs: Sequence[Run], some: Sequence[Run]) -> list[str]:
    found = []
    if nothing := [run for run in runs if run not in some]:
        found.append(f"Anything about the accuracy of {_names(nothing)}: not evaluated.")
    if partly := [run for run in runs if facts.status(run) != "done"]:
        found.append(f"The finished training of {_names(partly)}: its record ends early.")
    for run in some:
        n, test = count(run.record, "evaluation", "n"), count(run.record, "data", "test")
        split = text(run.record, "evaluation", "split")
        if split and split != "test":
            found.append(f"Accuracy of {_names([run])} on test data: it was evaluated on the {split} split.")
        elif n is not None and test is not None and n < test:
            share = f"{words.whole(n)} of {words.whole(test)} examples were attacked"
            found.append(f"The whole test set for {_names([run])}: {share}.")
    evaluation = (
        ("Corruptions and other shifts of the data", "shift"),
        ("Threat models of other kinds, such as patches and rotations", "unseen"),
        ("Inputs from another data set", "outside"),
        ("Explanations", "explanations"),
    )
    parts: list[tuple[str, Callable[[Run], bool]]] = [
        ("Worst case per example", lambda run: estimate(facts.results(run).get("worst")) is not None),
        ("Other values of eps", lambda run: bool(items(run.record, "evaluation", "eps_grid"))),
        ("Other numbers of attack steps", lambda run: bool(items(run.record, "evaluation", "steps_grid"))),
        ("Calibration", lambda run: bool(mapping(run.record, "evaluation", "calibration"))),
        ("Checks for gradient masking", lambda run: bool(facts.checks(run))),
        ("Cost beside standard training", lambda run: number(run.record, "timing", "step_ratio") is not None),
    ]
    parts += [(what, _holding(key)) for what, key in evaluation]
    for what, has in parts:
        if some and (lacking := [run for run in some if not has(run)]):
            found.append(f"{what}: not recorded for {_names(lacking)}.")
    return found


def _holding(key: str) -> Callable[[Run], bool]:
    return lambda run: bool(mapping(run.record, "evaluation", key))


def _names(runs: Sequence[Run]) -> str:
    return words.listing([facts.label(run) for run in runs])


def _seeds(runs: Sequence[Run]) -> list[str]:
    """Methods that were trained once only."""
    seeds: dict[tuple[str, str], set[str]] = {}
    for group in facts.groups(runs):
        for run in group.runs:
            key = (text(run.record, "system") or run.name, group.title)
            seeds.setdefault(key, set()).add(repr(find(run.record, "seed")))
    once = sorted({system for (system, _), found in seeds.items() if len(found) == 1 and system != "external"})
    if not once:
        return []
    were = "were each" if len(once) > 1 else "was"
    return [f"Other seeds: {words.listing(once)} {were} trained only once, so the spread between trainings is unknown."]


def _attacks(some: Sequence[Run]) -> list[str]:
    found = []
    if blind := [run for run in some if not _black_box(run)]:
        which = "" if len(blind) == len(some) else f", on {_names(blind)}"
        found.append(f"Black-box attacks{which}, which use no gradient and so do not suffer when gradients mislead.")
    weaker = [run for run in some if (suite := facts.suite(run)) and suite.name in ("quick", "foundation")]
    if weaker:
        found.append(
            f"The standard ensemble of attacks on {_names(weaker)}: a smaller suite ran, so the accuracy is an upper "
            "bound on the field’s number."
        )
    found.append("Adaptive attacks: nobody designed an attack against these particular models.")
    return found


def _black_box(run: Run) -> bool:
    """Whether a suite of the run holds an attack without gradients."""
    names = set()
    for view in facts.views(run):
        names |= {name.lower() for name in facts.attacks(view)}
        results = facts.results(view).values()
        names |= {text(mapping(result), "parameters", "attack").lower() for result in results}
    return any(part in name for name in names for part in BLACK_BOX)


def _threats(some: Sequence[Run]) -> list[str]:
    """Which threat models no number speaks about: more than one may have been measured, and other kinds beside."""
    norms = dict.fromkeys(
        words.norm(norm) for run in some for view in facts.views(run) if (norm := text(facts.threat(view), "norm"))
    )
    kinds = dict.fromkeys(words.NORMS.get(name, name) for run in some for name in unseen.results(run))
    measured = [*norms, *(name for name in kinds if name not in norms)]
    if not measured:
        return []
    if len(measured) == 1:
        return [f"Other threat models than {measured[0]}: robustness in one norm does not carry over."]
    return [f"Other threat models than {words.listing(measured)}: robustness in one does not carry over to another."]

"""The section on accuracy under attack. Runs of different groups never share a plot or a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.report import facts, plots, words
from sparring.report.blocks import Block, Cell, Figure, Figures, Heading, Mark, Table, Text, Tone
from sparring.report.facts import Group
from sparring.report.read import Estimate, Run, count, estimate, mapping, number

NO_SETTINGS = {
    "clean": "inputs as they are",
    "worst": "lost if any attack above wins",
    "certified": "proved: no input in the ball changes the answer",
}
"""What stands in the place of an attack's settings where there is no attack."""

SUITES = {
    "quick": "a short version of the standard ensemble",
    "standard": "AutoAttack’s ensemble, the field’s protocol",
    "plus": "AutoAttack’s larger ensemble, with more restarts",
    "rand": "AutoAttack’s version for models that answer at random",
    "foundation": "FGSM and PGD on two losses",
}


def attacks(runs: Sequence[Run]) -> list[Block]:
    """The suites, and for each group of runs under each threat model a plot and a table; a row is an attack with its
    settings."""
    groups = facts.groups([view for run in runs for view in facts.views(run)])
    blocks: list[Block] = [
        Text(
            "An attack’s name is not a number: loss, steps, step size, start and restarts decide what it finds, so "
            "each row states them all. The worst case counts an example as lost if any attack succeeds on it."
        ),
        *_suites(runs),
    ]
    for i, group in enumerate(groups):
        shown = [run for run in group.runs if facts.evaluated(run)]
        if len(groups) > 1 and shown:
            blocks.append(Heading(group.title))
        if shown:
            blocks += [_figure(group, shown, i), _table(group, shown), _details(group, shown), _verified(shown)]
    return blocks + facts.lacking(runs, facts.evaluated, "no accuracy under attack")


def _suites(runs: Sequence[Run]) -> list[Block]:
    """What each suite is, how its accuracies read, and how far it may be off."""
    found: dict[facts.Suite, list[str]] = {}
    for run in runs:
        for view in facts.views(run):
            if suite := facts.suite(view):
                names = found.setdefault(suite, [])
                names += [] if facts.label(run) in names else [facts.label(run)]
    blocks: list[Block] = []
    for suite, names in found.items():
        what = f", {SUITES[suite.name]}" if suite.name in SUITES else ""
        how = (
            "Its attacks run one after the other, each on what those before it left standing. So the accuracy beside "
            "an attack is that of all attacks up to it."
            if suite.sequential
            else "Each of its attacks runs on every example, so the accuracy beside an attack is its own."
        )
        said = f"Suite “{suite.name}”{what} (used on {words.listing(names)}). {how}"
        blocks.append(Text(f"{said} {words.sentence(suite.bound)}" if suite.bound else said))
    return blocks


def _rows(runs: Sequence[Run]) -> dict[tuple[str, str], dict[int, tuple[Estimate, Mapping[str, Any]]]]:
    """Attack and settings to run index to result: two runs share a row only if their settings are the same."""
    rows: dict[tuple[str, str], dict[int, tuple[Estimate, Mapping[str, Any]]]] = {}
    for run in runs:
        for name, result in facts.results(run).items():
            if e := estimate(result):
                cells = rows.setdefault((name, words.settings(mapping(result, "parameters"))), {})
                cells[run.index] = e, mapping(result)
    order = {"clean": 0, "worst": 2, "certified": 3}
    return {key: rows[key] for key in sorted(rows, key=lambda key: order.get(key[0], 1))}


def _figure(group: Group, runs: Sequence[Run], i: int) -> Figures:
    by_name: dict[str, list[tuple[Mark, Estimate]]] = {}
    for (name, _), cells in _rows(runs).items():
        points = [(facts.mark(run), cells[run.index][0]) for run in runs if run.index in cells]
        by_name.setdefault(words.attack(name), []).extend(points)
    svg = plots.per_attack(f"attacks{i}", f"Accuracy under each attack on {group.title}.", list(by_name.items()))
    caption = f"Accuracy under each attack on {group.title}, with 95 % intervals."
    return Figures((Figure(svg, caption, [facts.mark(run) for run in runs]),))


def _table(group: Group, runs: Sequence[Run]) -> Table:
    head = [Cell("Attack"), *(Cell(run.name, mark=facts.mark(run)) for run in runs), Cell("Settings")]
    rows = []
    added = False
    for (name, settings), cells in _rows(runs).items():
        tone: Tone = "strong" if name == "worst" else ""
        row = [Cell(words.attack(name), tone)]
        for run in runs:
            e, result = cells.get(run.index, (None, {}))
            detail = _added(result, facts.suite(run))
            added |= bool(detail)
            row.append(Cell(words.share(e), tone, share=e, detail=detail))
        rows.append([*row, Cell(settings or NO_SETTINGS.get(name, "not recorded"), "quiet")])
    caption = f"Accuracy (95 % interval) and all settings of every attack on {group.title}."
    caption += " Below an accuracy: how many examples the attack broke that no attack above it had." if added else ""
    return Table(caption, head, rows)


def _added(result: Mapping[str, Any], suite: facts.Suite | None) -> str:
    """What an attack added to those before it: "broke 3 of 120 left", or "" where the record does not say."""
    broke, attempted = count(result, "broke"), count(result, "attempted")
    if broke is None or attempted is None:
        return ""
    if suite is not None and suite.sequential:
        return f"broke {words.whole(broke)} of {words.whole(attempted)} left" if attempted else "none was left to try"
    return f"first to break {words.whole(broke)} of {words.whole(attempted)}"


def _details(group: Group, runs: Sequence[Run]) -> Table:
    head = ["Attack", "Run", "n", "Tried on", "Broke first", "Outside the threat model", "Time"]
    rows = [
        [
            Cell(words.attack(name)),
            Cell(run.name, mark=facts.mark(run)),
            Cell(words.whole(count(result, "n"))),
            Cell(words.whole(count(result, "attempted"))),
            Cell(words.whole(count(result, "broke"))),
            Cell(words.whole(count(result, "refused"))),
            Cell(words.duration(number(result, "seconds"))),
        ]
        for run in runs
        for name, result in facts.results(run).items()
        if estimate(result)
    ]
    caption = f"Examples, refusals and time of every attack on {group.title}"
    return Table(caption, [Cell(title) for title in head], rows, folded=True)


def _verified(runs: Sequence[Run]) -> Text:
    recorded = [run for run in runs if any("refused" in mapping(result) for result in facts.results(run).values())]
    if not recorded:
        return Text(
            "The records do not say whether adversarial examples were checked against the threat model.", note=True
        )
    refused = sum(facts.refused(run) for run in recorded)
    said = f"{words.whole(refused)} were refused" if refused else "none was refused"
    return Text(f"Every adversarial example was checked against the threat model before it counted; {said}.")

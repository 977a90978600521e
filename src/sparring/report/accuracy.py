"""The sections on accuracy under attack. Runs of different groups never share a plot or a table."""

from collections.abc import Sequence

from sparring.report import facts, plots, words
from sparring.report.blocks import Block, Cell, Figure, Figures, Heading, Mark, Table, Text, Tone
from sparring.report.facts import Group
from sparring.report.read import Estimate, Run, count, estimate, items, mapping, number

NO_SETTINGS = {"clean": "inputs as they are", "worst": "lost if any attack above wins"}
"""What stands in the place of an attack's settings where there is no attack."""


def attacks(groups: Sequence[Group]) -> list[Block]:
    """One plot and one table per group; a row is an attack with its settings."""
    blocks: list[Block] = [
        Text(
            "An attack’s name is not a number: loss, steps, step size, start and restarts decide what it finds, so "
            "each row states them all. The worst case counts an example as lost if any attack succeeds on it."
        )
    ]
    for i, group in enumerate(groups):
        runs = [run for run in group.runs if facts.evaluated(run)]
        if len(groups) > 1:
            blocks.append(Heading(group.title))
        if runs:
            blocks += [_attack_figure(group, runs, i), _attack_table(group, runs), _attack_details(group, runs)]
            blocks.append(_verified(runs))
    return blocks + facts.lacking(
        [run for group in groups for run in group.runs], facts.evaluated, "no accuracy under attack"
    )


def _attack_rows(runs: Sequence[Run]) -> dict[tuple[str, str], dict[int, Estimate]]:
    """Attack and settings to run index to estimate: two runs share a row only if their settings are the same."""
    rows: dict[tuple[str, str], dict[int, Estimate]] = {}
    for run in runs:
        for name, result in facts.results(run).items():
            if e := estimate(result):
                rows.setdefault((name, words.settings(mapping(result, "parameters"))), {})[run.index] = e
    order = {"clean": 0, "worst": 2}
    return {key: rows[key] for key in sorted(rows, key=lambda key: order.get(key[0], 1))}


def _attack_figure(group: Group, runs: Sequence[Run], i: int) -> Figures:
    by_name: dict[str, list[tuple[Mark, Estimate]]] = {}
    for (name, _), cells in _attack_rows(runs).items():
        points = [(facts.mark(run), cells[run.index]) for run in runs if run.index in cells]
        by_name.setdefault(words.attack(name), []).extend(points)
    svg = plots.per_attack(f"attacks{i}", f"Accuracy under each attack on {group.title}.", list(by_name.items()))
    caption = f"Accuracy under each attack on {group.title}, with 95 % intervals."
    return Figures((Figure(svg, caption, [facts.mark(run) for run in runs]),))


def _attack_table(group: Group, runs: Sequence[Run]) -> Table:
    head = [Cell("Attack"), *(Cell(run.name, mark=facts.mark(run)) for run in runs), Cell("Settings")]
    rows = []
    for (name, settings), cells in _attack_rows(runs).items():
        tone: Tone = "strong" if name == "worst" else ""
        accuracy = [Cell(words.share(cells.get(run.index)), tone, share=cells.get(run.index)) for run in runs]
        said = settings or NO_SETTINGS.get(name, "not recorded")
        rows.append([Cell(words.attack(name), tone), *accuracy, Cell(said, "quiet")])
    return Table(f"Accuracy (95 % interval) and all settings of every attack on {group.title}.", head, rows)


def _attack_details(group: Group, runs: Sequence[Run]) -> Table:
    head = ["Attack", "Run", "n", "Outside the threat model", "Time"]
    rows = [
        [
            Cell(words.attack(name)),
            Cell(run.name, mark=facts.mark(run)),
            Cell(words.whole(count(result, "n"))),
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


def budget(groups: Sequence[Group]) -> list[Block]:
    """Accuracy against eps and against the number of steps."""
    blocks: list[Block] = [
        Text(
            "With a larger eps accuracy must fall, and far enough out it must reach zero. With more steps it must "
            "level off: a curve that still falls at its right end means that the attack was stopped too early."
        )
    ]
    for i, group in enumerate(groups):
        figures, tables = [], []
        for kind, key in (("eps", "eps_grid"), ("steps", "steps_grid")):
            curves = [(facts.mark(run), points) for run in group.runs if (points := _grid(run, kind, key))]
            if not curves:
                continue
            figures.append(_sweep(f"{kind}{i}", kind, group, curves))
            tables.append(_sweep_table(kind, group, curves))
        if figures and len(groups) > 1:
            blocks.append(Heading(group.title))
        if figures:
            blocks += [Figures(figures), *tables]

    def swept(run: Run) -> bool:
        return bool(_grid(run, "eps", "eps_grid") or _grid(run, "steps", "steps_grid"))

    return blocks + facts.lacking([run for group in groups for run in group.runs], swept, "no sweep over eps or steps")


def _grid(run: Run, kind: str, key: str) -> list[tuple[float, Estimate]]:
    """The sweep's points in order; that over eps starts with the clean accuracy, which is eps 0."""
    points = [
        (x, e)
        for item in items(run.record, "evaluation", key)
        if (x := number(item, kind)) is not None and (e := estimate(item))
    ]
    if kind == "steps":
        points = [(x, e) for x, e in points if x > 0]
    start = facts.clean(run)
    if points and kind == "eps" and start is not None and all(x > 0 for x, _ in points):
        points.append((0.0, start))
    return sorted(points, key=lambda point: point[0])


def _sweep(name: str, kind: str, group: Group, curves: Sequence[plots.Curve]) -> Figure:
    marks = [mark for mark, _ in curves]
    axis = "eps, in input units" if kind == "eps" else "Attack steps (logarithmic axis)"
    trained = (
        sorted({eps for run in group.runs if (eps := facts.training_eps(run)) is not None}) if kind == "eps" else []
    )
    lines = [(eps, "training eps") for eps in trained]
    against = "eps" if kind == "eps" else "attack steps"
    label = f"Accuracy against {against} on {group.title}; the numbers follow in a table."
    svg = plots.along(name, label, curves, axis=axis, lines=lines, log=kind == "steps")
    tail = "The dotted line is the eps of training. eps 0 is no attack." if lines else "The band is the 95 % interval."
    what = "Accuracy as eps grows" if kind == "eps" else "Accuracy as the attack takes more steps"
    return Figure(svg, f"{what}, {group.title}. {tail}", marks)


def _sweep_table(kind: str, group: Group, curves: Sequence[plots.Curve]) -> Table:
    values = sorted({x for _, points in curves for x, _ in points})
    head = [Cell("eps" if kind == "eps" else "Steps"), *(Cell(mark.name, mark=mark) for mark, _ in curves)]
    rows = [
        [
            Cell(words.radius(x) if kind == "eps" else f"{x:g}"),
            *(Cell(words.share(dict(points).get(x))) for _, points in curves),
        ]
        for x in values
    ]
    what = "eps" if kind == "eps" else "attack steps"
    return Table(f"The numbers: accuracy against {what} on {group.title}", head, rows, folded=True)

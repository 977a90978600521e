"""The section on accuracy along the attacker's budget. Runs of different groups never share a plot or a table."""

from collections.abc import Sequence

from sparring.report import facts, plots, words
from sparring.report.blocks import Block, Cell, Figure, Figures, Heading, Table, Text
from sparring.report.facts import Group
from sparring.report.read import Estimate, Run, estimate, items, number


def budget(runs: Sequence[Run]) -> list[Block]:
    """Accuracy against eps and against the number of steps, under each threat model."""
    groups = facts.groups([view for run in runs for view in facts.views(run)])
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
        return any(_grid(view, "eps", "eps_grid") or _grid(view, "steps", "steps_grid") for view in facts.views(run))

    return blocks + facts.lacking(runs, swept, "no sweep over eps or steps")


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
    return Figure(svg, f"{what}, {group.title}{_counted(curves)}. {tail}", marks)


def _counted(curves: Sequence[plots.Curve]) -> str:
    """ ", n = 200": of all points that are not the clean accuracy."""
    found = sorted({e.n for _, points in curves for x, e in points if x > 0 and e.n is not None})
    return f", n = {words.listing([words.whole(n) for n in found])}" if found else ""


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
    return Table(f"The numbers: accuracy against {what} on {group.title}{_counted(curves)}", head, rows, folded=True)

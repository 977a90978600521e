"""The first section: what the runs are worth side by side."""

from collections.abc import Sequence

from sparring.report import facts, paired, plots, words
from sparring.report.blocks import Block, Cell, Figure, Figures, Heading, Table, Text
from sparring.report.facts import Group
from sparring.report.read import Run, count, find, number

INTERVALS = (
    "Intervals are 95 % and come from the finite number of examples. They do not include how much accuracy varies "
    "between trainings with different seeds."
)


def comparison(groups: Sequence[Group]) -> list[Block]:
    """Clean and worst-case accuracy of the runs of each group, and what the numbers may be compared with."""
    blocks: list[Block] = [Text(INTERVALS)]
    if len(groups) > 1:
        blocks.append(
            Text(
                "These runs do not all share one data set and one threat model, so they are shown in groups. "
                "Numbers from different groups must not be compared.",
                note=True,
            )
        )
    for i, group in enumerate(groups):
        if len(groups) > 1:
            blocks.append(Heading(group.title))
        if figure := _trade_off(group, i):
            blocks.append(Figures((figure,)))
        blocks.append(_overview(group))
    runs = [run for group in groups for run in group.runs]
    for data in facts.by_data(runs):
        blocks += _threats(data)
    for group in groups:
        blocks += paired.blocks(group, titled=len(groups) > 1)
    return blocks


def _trade_off(group: Group, i: int) -> Figure | None:
    points = []
    for run in group.runs:
        clean, worst = facts.clean(run), facts.worst(run)
        if clean is not None and worst is not None:
            points.append((facts.mark(run), clean, worst))
    if len(points) < 2:
        return None
    said = "; ".join(f"{m.name}: clean {words.share(c)}, worst case {words.share(w)}" for m, c, w in points)
    svg = plots.trade_off(f"tradeoff{i}", f"Clean against worst-case accuracy. {said}.", points)
    caption = f"Clean against worst-case accuracy on {group.title}. Up and right is better; bars are 95 % intervals."
    return Figure(svg, caption, [m for m, _, _ in points])


def _overview(group: Group) -> Table:
    head = ["Run", "Clean accuracy", "Worst case", "n", "Checks", "Step cost", "Kept epoch", "Seed"]
    rows = []
    for run in group.runs:
        clean, worst = facts.clean(run), facts.worst(run)
        failed, checks = facts.all_checks(run)
        verdict = Cell(f"{failed} of {checks} failed", "bad") if failed else Cell(f"all {checks} passed", "good")
        ratio, epoch = number(run.record, "timing", "step_ratio"), count(run.record, "best", "epoch")
        seed = find(run.record, "seed")
        n = clean.n if clean else worst.n if worst else None
        rows.append(
            [
                Cell(run.name, mark=facts.mark(run)),
                Cell(words.share(clean), share=clean),
                Cell(words.share(worst), share=worst),
                Cell(words.whole(n)),
                verdict if checks else Cell("none run", "quiet"),
                Cell("–" if ratio is None else f"{ratio:.1f} ×"),
                Cell("–" if epoch is None else str(epoch)),
                Cell("–" if seed is None else words.plain(seed)),
            ]
        )
    caption = f"Runs on {group.title}. Step cost: a multiple of a step of standard training."
    return Table(caption, [Cell(title) for title in head], rows)


def _threats(group: Group) -> list[Block]:
    """Worst-case accuracy under each of several threat models, and under their union."""
    runs = [run for run in group.runs if len(facts.views(run)) > 1]
    if not runs:
        return []
    views = {run.index: [view for view in facts.views(run) if facts.evaluated(view)] for run in group.runs}
    each = facts.groups([view for run in group.runs for view in views[run.index]])
    head = [Cell("Threat model"), *(Cell(run.name, mark=facts.mark(run)) for run in group.runs)]
    rows = []
    for threat in each:
        found = {view.index: facts.worst(view) for view in threat.runs}
        row = [Cell(words.threat_name(facts.threat(threat.runs[0])))]
        rows.append([*row, *(Cell(words.share(e), share=e) for e in (found.get(run.index) for run in group.runs))])
    for members in dict.fromkeys(tuple(_members(views[run.index])) for run in runs):
        found = {run.index: facts.union(run) for run in runs if tuple(_members(views[run.index])) == members}
        row = [Cell(f"Union of {words.listing(list(members))}", "strong")]
        if any(found.values()):
            cells = (found.get(run.index) for run in group.runs)
            rows.append([*row, *(Cell(words.share(e), "strong", share=e) for e in cells)])
    n = sorted({e.n for run in runs if (e := facts.worst(run)) is not None and e.n is not None})
    caption = f"Worst-case accuracy (95 % interval) under each threat model on {group.title}"
    caption += f", n = {words.listing([words.whole(k) for k in n])}." if n else "."
    caption += " The union counts an example as lost if it is lost under any of them."
    return [Heading(f"Several threat models on {group.title}"), Table(caption, head, rows)]


def _members(views: Sequence[Run]) -> list[str]:
    return [words.threat_name(facts.threat(view)).replace(", eps", " eps") for view in views]

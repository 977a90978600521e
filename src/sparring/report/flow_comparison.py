"""The first section on flows: what the detectors are worth side by side."""

from collections.abc import Sequence

from sparring.report import facts, flow_facts, paired, words
from sparring.report.blocks import Block, Cell, Heading, Table, Text, Tone
from sparring.report.facts import Group
from sparring.report.read import Run, count, number

LEAD = (
    "Detection is the share of malicious test flows that raise an alarm at the detector’s own threshold, false alarms "
    "the share of the test’s benign flows that do. Intervals are 95 % and come from the finite number of flows; how "
    "much detectors of other seeds differ is not in them."
)


def comparison(runs: Sequence[Run]) -> list[Block]:
    """A table for each group of runs, and the paired differences in it."""
    groups = facts.groups(runs)
    blocks: list[Block] = [Text(LEAD)]
    if len(groups) > 1:
        blocks.append(
            Text(
                "These runs do not all share one data set and one threat model, so they are shown in groups. Numbers "
                "from different groups must not be compared.",
                note=True,
            )
        )
    for group in groups:
        if len(groups) > 1:
            blocks.append(Heading(flow_facts.title(group)))
        blocks += [_overview(group), *_differences(group)]
    return blocks


def _overview(group: Group) -> Table:
    head = ["Run", "As they came", "Worst case", "False alarms", "AUROC", "Checks"]
    rows = []
    for run in group.runs:
        clean, worst, raised = facts.clean(run), facts.worst(run), flow_facts.false_alarms(run)
        areas = [flow_facts.area(run, state) for state in ("clean", "attacked")]
        failed, checks = facts.all_checks(run)
        verdict = Cell(f"{failed} of {checks} failed", "bad") if failed else Cell(f"all {checks} passed", "good")
        row = [Cell(run.name, mark=facts.mark(run), detail=flow_facts.detector(run))]
        row += [Cell(words.share(e), share=e) for e in (clean, worst, raised)]
        row.append(Cell(words.error(areas[0]), detail=f"worst case {words.error(areas[1])}"))
        rows.append([*row, verdict if checks else Cell("none", "quiet")])
    n = sorted({e.n for run in group.runs if (e := facts.clean(run)) is not None and e.n is not None})
    caption = f"Detectors on {flow_facts.title(group)}"
    caption += f"; {words.listing([words.whole(each) for each in n])} malicious flows attacked." if n else "."
    return Table(caption, [Cell(title) for title in head], rows)


def _differences(group: Group) -> list[Block]:
    """Flow by flow, at the same rate of false alarms on benign flows held out; else not at all."""
    if len(group.runs) < 2:
        return []
    found, notes = paired.differences(group)
    rates = {flow_facts.promised(run) for each in found for run in (each.first, each.second)}
    said: list[Block] = [Text(note, note=True) for note in notes]
    if len(rates) > 1:
        why = "Their thresholds were fixed at different rates of false alarms, so detections at them are not compared."
        return [*said, Text(why, note=True)]
    if not found:
        return said
    rows = []
    for each in found:
        low, high = number(each.figures, "low"), number(each.figures, "high")
        tone: Tone = "strong" if low is not None and high is not None and (low > 0 or high < 0) else ""
        only = [words.whole(count(each.figures, key)) for key in ("only_second", "only_first")]
        rows.append(
            [
                Cell(f"{facts.label(each.second)} minus {facts.label(each.first)}"),
                Cell({"clean": "As they came", "worst": "Worst case"}.get(each.what, each.what)),
                Cell(words.points(each.figures["difference"], low, high), tone),
                Cell(words.chance(each.figures["p"])),
                Cell(f"{each.second.letter} {only[0]}, {each.first.letter} {only[1]}"),
                Cell(words.whole(count(each.figures, "n"))),
            ]
        )
    head = ["Runs", "Flows", "Difference in points", "p", "Alarm in one only", "n"]
    caption = (
        f"Paired differences of detection on {flow_facts.title(group)}, with 95 % intervals, both thresholds fixed at "
        f"{words.percent(next(iter(rates)) or 0.0)} false alarms on flows held out. Bold: the interval leaves out zero."
    )
    text = (
        "The same flows were sent to both detectors, each as it was worst for it. p is the chance of a difference at "
        "least this large if the two were equally good (McNemar’s exact test). What each raises on the test’s benign "
        "flows is in the table above: a detector that raises more there has an advantage here."
    )
    table = Table(caption, [Cell(title) for title in head], rows)
    return [Heading("Differences, flow by flow"), Text(text), table, *said]

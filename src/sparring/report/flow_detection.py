"""The sections on detection: at fixed rates of false alarms, under each attack, along the radius, by type of attack."""

from collections.abc import Sequence

from sparring.report import facts, flow_facts, flow_plots, plots, words
from sparring.report.blocks import Block, Cell, Figure, Figures, Heading, Table, Text, Tone
from sparring.report.facts import Group
from sparring.report.read import Estimate, Run, count, estimate, find, items, mapping, number, text

ROWS = 13
"""Types of attack in a plot; the table has all."""


def groups(runs: Sequence[Run]) -> list[Group]:
    """The evaluated runs, by data and threat model."""
    return facts.groups(flow_facts.evaluated(runs))


def curves(runs: Sequence[Run]) -> list[Block]:
    """ROC curves, and detection at fixed rates of false alarms."""
    blocks: list[Block] = [
        Text(
            "Moving the threshold buys detection with false alarms, so detectors are compared at the same rate of "
            "false alarms only. The curves are over the test’s own benign flows. The table fixes each threshold on "
            "benign training flows held out, as one has to in service, and says what that raises on the test."
        )
    ]
    for i, group in enumerate(groups(runs)):
        if len(groups(runs)) > 1:
            blocks.append(Heading(flow_facts.title(group)))
        blocks += [Figures((_roc(group, i),)), _at_rates(group)]
    return blocks + _lacking(runs, "no ROC curve")


def _roc(group: Group, i: int) -> Figure:
    found: list[flow_plots.Curve] = []
    benign = [number(flow_facts.evaluation(run), "roc", "benign") or 1.0 for run in group.runs]
    for run in group.runs:
        raised = flow_facts.false_alarms(run)
        for state, e in (("clean", facts.clean(run)), ("attacked", facts.worst(run))):
            points = [
                (fp, dr)
                for each in items(flow_facts.evaluation(run), "roc", state)
                if (fp := number(each, "false positives")) is not None and (dr := number(each, "detection")) is not None
            ]
            at = (raised.value, e.value) if raised is not None and e is not None else None
            found.append((facts.mark(run), state, points, at))
    said = "; ".join(
        f"{run.name}: area {words.error(flow_facts.area(run, 'clean'))}, in the worst case "
        f"{words.error(flow_facts.area(run, 'attacked'))}"
        for run in group.runs
    )
    svg = flow_plots.roc(f"roc{i}", f"ROC curves. {said}.", found, 1 / max(benign))
    caption = (
        f"Detected against false alarms on {flow_facts.title(group)}. Solid: as the flows came; dashed: each as it was "
        "worst for the detector. Markers: at the detector’s own threshold. Areas under the curves: " + said + "."
    )
    return Figure(svg, caption, [facts.mark(run) for run in group.runs])


def _at_rates(group: Group) -> Table:
    rows = []
    for name in dict.fromkeys(key for run in group.runs for key in mapping(flow_facts.evaluation(run), "at_rates")):
        for run in group.runs:
            states = [flow_facts.rate(run, "at_rates", name, key) for key in ("clean", "attacked", "false_alarms")]
            row = [Cell(name), Cell(run.name, mark=facts.mark(run))]
            rows.append([*row, *(Cell(words.share(e), share=e) for e in states)])
    head = ["Allowed", "Run", "As they came", "Worst case", "False alarms on the test"]
    held = (count(flow_facts.evaluation(run), "detector", "held_out") for run in group.runs)
    many = words.listing(sorted({words.whole(n) for n in held}))
    caption = (
        f"Detection at fixed rates of false alarms, with 95 % intervals; thresholds from {many} benign flows held out."
    )
    return Table(caption, [Cell(title) for title in head], rows)


def attacks(runs: Sequence[Run]) -> list[Block]:
    """Every attack with its settings, and the radius."""
    blocks: list[Block] = [
        Text(
            "Every attack sees every flow, and each flow that it makes could be sent. The worst case counts a flow as "
            "missed if any of them makes it so. Last, what would be found if an attacker could send anything within "
            "the radius, which nobody can: how far the rules of the table matter."
        )
    ]
    for i, group in enumerate(groups(runs)):
        if len(groups(runs)) > 1:
            blocks.append(Heading(flow_facts.title(group)))
        blocks += [_per_attack(group), _radius(group, i)]
    return blocks + _lacking(runs, "no detection under attack")


def _per_attack(group: Group) -> Table:
    names = dict.fromkeys(name for run in group.runs for name in facts.results(run))
    head = [Cell("Attack"), *(Cell(run.name, mark=facts.mark(run)) for run in group.runs), Cell("Settings")]
    rows = []
    for name in sorted(names, key=lambda name: {"clean": 0, "worst": 2}.get(name, 1)):
        tone: Tone = "strong" if name == "worst" else ""
        found = [estimate(facts.results(run).get(name)) for run in group.runs]
        settings = next((words.settings(mapping(facts.results(run), name, "parameters")) for run in group.runs), "")
        other = "no attack" if name == "clean" else "missed if any attack above makes it so"
        row = [Cell(flow_facts.attack(name), tone), *(Cell(words.share(e), tone, share=e) for e in found)]
        rows.append([*row, Cell(settings or other, "quiet")])
    eps = number(facts.threat(group.runs[0]), "eps")
    anything: list[Estimate | None] = []
    for run in group.runs:
        each = [row for row in items(flow_facts.evaluation(run), "unconstrained") if number(row, "eps") == eps]
        anything.append(estimate(each[0]) if each else None)
    cells = [Cell(words.share(e), "quiet", share=e) for e in anything]
    rows.append([Cell("Rows nobody could send", "quiet"), *cells, Cell("any number within the radius", "quiet")])
    caption = (
        f"Detected under each attack on {flow_facts.title(group)}, with 95 % intervals, at each detector’s threshold."
    )
    return Table(caption, head, rows)


def _radius(group: Group, i: int) -> Figures:
    figures = []
    for key, title in (("eps_grid", "Feasible flows"), ("unconstrained", "Rows nobody could send")):
        found = [(facts.mark(run), _along(run, key)) for run in group.runs if _along(run, key)]
        if found:
            ends = "; ".join(f"{mark.name} {words.share(points[-1][1])}" for mark, points in found)
            label = f"{title}: detected as the radius grows; at its end {ends}."
            svg = plots.along(
                f"{key}{i}", label, found, axis="Radius eps, share of a column’s range", share="Detected, %"
            )
            marks = [mark for mark, _ in found]
            figures.append(Figure(svg, f"{title}, as the radius grows, with 95 % bands.", marks))
    return Figures(tuple(figures))


def _along(run: Run, key: str) -> list[tuple[float, Estimate]]:
    clean = facts.clean(run)
    start = [(0.0, clean)] if clean is not None else []
    rows = items(flow_facts.evaluation(run), key)
    return start + [(eps, e) for row in rows if (eps := number(row, "eps")) is not None and (e := estimate(row))]


def types(runs: Sequence[Run]) -> list[Block]:
    """By class of attack, by whether training saw the type, and by name."""
    blocks: list[Block] = [
        Text(
            "A type of attack that training never saw is another question than an attacker who changes flows, and a "
            "detector may be good at one and bad at the other. Few flows of a type say little: look at the intervals."
        )
    ]
    for i, group in enumerate(groups(runs)):
        if len(groups(runs)) > 1:
            blocks.append(Heading(flow_facts.title(group)))
        rows = _types(group)
        drawn = [row for row in rows if row[1]][:ROWS]
        if drawn:
            svg = flow_plots.by_type(f"types{i}", _spoken(drawn), drawn)
            caption = (
                f"Detected by type of attack on {flow_facts.title(group)}, with 95 % intervals. Filled: as the flows "
                "came; hollow: in the worst case."
            )
            blocks.append(Figures((Figure(svg, caption, [facts.mark(run) for run in group.runs]),)))
        blocks.append(_type_table(group))
    return blocks + _lacking(runs, "no types of attack")


def _spoken(rows: Sequence[flow_plots.Row]) -> str:
    said = "; ".join(f"{title} {words.share(points[0][1])}" for title, points in rows)
    return f"Detected by type of attack, {rows[0][1][0][0].name}: {said}."


def _parts(group: Group) -> list[tuple[str, tuple[str, str], str]]:
    """Title, keys in the record, and the class, of every part that some run has: classes, seen and unseen, names."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for run in group.runs:
        kinds, names = (mapping(flow_facts.evaluation(run), key) for key in ("kinds", "names"))
        if set(kinds) != set(names):
            found |= {("kinds", kind): (f"all {kind}", "") for kind in kinds}
        labels = {"seen": "types of training", "unseen": "unseen types"}
        found |= {("types", key): (labels.get(key, key), "") for key in mapping(flow_facts.evaluation(run), "types")}
        order = sorted(names, key=lambda name: (text(names, name, "kind"), -(number(names, name, "all", "n") or 0)))
        for name in order:
            mark = "" if find(names, name, "seen") is True else " (unseen)"
            found[("names", name)] = (f"{name}{mark}", text(names, name, "kind"))
    return [(title, keys, kind) for keys, (title, kind) in found.items()]


def _types(group: Group) -> list[flow_plots.Row]:
    """The rows of the plot: of names only those of which some flows were attacked, the most frequent first."""
    rows: list[tuple[float, flow_plots.Row]] = []
    for title, keys, _ in _parts(group):
        points = []
        for run in group.runs:
            clean, worst = (flow_facts.rate(run, *keys, key) for key in ("clean", "attacked"))
            if clean is not None:
                points.append((facts.mark(run), clean, worst))
        many = max((e.n or 0 for _, e, _ in points), default=0)
        rows.append((-1.0 if keys[0] != "names" else float(many), (title, points)))
    names = sorted((row for row in rows if row[0] >= 0), key=lambda row: -row[0])
    return [row for _, row in [*(row for row in rows if row[0] < 0), *names]]


def _type_table(group: Group) -> Table:
    rows = []
    for title, keys, kind in _parts(group):
        for run in group.runs:
            found = [flow_facts.rate(run, *keys, key) for key in ("clean", "attacked", "all")]
            attacked, every = found[1], found[2]
            row = [Cell(title, detail=kind), Cell(run.name, mark=facts.mark(run))]
            row += [Cell(words.share(e), share=e) for e in found[:2]]
            row.append(Cell(words.whole(attacked.n if attacked else 0)))
            rows.append([*row, Cell(words.share(every)), Cell(words.whole(every.n if every else 0))])
    head = ["Type", "Run", "As they came", "Worst case", "n", "All of the test, as they came", "n"]
    return Table("Every type of attack, with 95 % intervals", [Cell(title) for title in head], rows, folded=True)


def _lacking(runs: Sequence[Run], what: str) -> list[Block]:
    return facts.lacking(runs, lambda run: bool(flow_facts.evaluation(run)), what)

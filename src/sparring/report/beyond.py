"""The section on what lies beyond the ball: threat models of other kinds, corruptions, and data from elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparring.report import corruptions, facts, plots, verdicts, words
from sparring.report.blocks import Block, Cell, Figure, Figures, Heading, Mark, Table, Text
from sparring.report.facts import Group
from sparring.report.read import Estimate, Run, count, estimate, find, mapping, number, text

SCORES = {"softmax": "Largest softmax probability", "energy": "Energy"}
"""What tells inside from outside, by its name in a record."""


def beyond(runs: Sequence[Run]) -> list[Block]:
    """What the robustness bought beyond the threat model that it was trained and measured in."""
    blocks: list[Block] = [
        Text(
            "A model that stands inside one ball may fall to a rotated, a blurred or an unknown picture. This section "
            "leaves the ball."
        ),
        *verdicts.blocks(runs),
    ]
    groups = facts.by_data(runs)
    for i, group in enumerate(groups):
        blocks += _unseen(group, i)
    for group in groups:
        blocks += corruptions.blocks(group)
    for group in groups:
        blocks += _outside(group)
    return blocks + _lacking(runs)


def _lacking(runs: Sequence[Run]) -> list[Block]:
    """One note for all runs that lack the same parts."""
    parts: tuple[tuple[str, Callable[[Run], bool]], ...] = (
        ("threat models of other kinds", lambda run: bool(unseen(run))),
        ("corruptions", lambda run: bool(mapping(run.record, "evaluation", "shift"))),
        ("data from elsewhere", lambda run: bool(mapping(run.record, "evaluation", "outside"))),
    )
    absent: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        missing = tuple(what for what, has in parts if not has(run))
        if missing:
            absent.setdefault(missing, []).append(facts.label(run))
    return [
        Text(
            f"Not shown: the record of {words.listing(names)} holds no {words.listing(list(missing), 'or')}.", note=True
        )
        for missing, names in absent.items()
    ]


def unseen(run: Run) -> dict[str, Mapping[str, Any]]:
    """Threat model to result, those that have one."""
    found = mapping(run.record, "evaluation", "unseen")
    return {name: mapping(result) for name, result in found.items() if estimate(result) is not None}


def trained_against(run: Run, result: Mapping[str, Any]) -> bool:
    """Whether a threat model is that of training; a record also marks it for standard training, which has none."""
    return find(result, "trained") is True and facts.adversarial(run)


def _unseen(group: Group, i: int) -> list[Block]:
    runs = [run for run in group.runs if unseen(run)]
    if not runs:
        return []
    cells: dict[tuple[str, str, str], dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        for name, result in unseen(run).items():
            key = (name, _described(name, mapping(result, "threat")), words.settings(mapping(result, "parameters")))
            cells.setdefault(key, {})[run.index] = result
    marks = [facts.mark(run) for run in runs]
    points: dict[str, list[tuple[Mark, Estimate]]] = {}
    hollow = set()
    rows = []
    for (name, described, settings), found in cells.items():
        title = short(name)
        row = [Cell(described)]
        for run in runs:
            result = found.get(run.index, {})
            e = estimate(result)
            against = trained_against(run, result)
            row.append(Cell(words.share(e), share=e, detail="trained against" if against else ""))
            if e is not None:
                points.setdefault(title, []).append((facts.mark(run), e))
                hollow |= {(title, facts.mark(run))} if against else set()
        attack = "; ".join(
            part for part in (text(next(iter(found.values())), "parameters", "attack"), settings) if part
        )
        rows.append([*row, Cell(attack or "not recorded", "quiet")])
    label = f"Accuracy under threat models of other kinds on {group.title}; the numbers follow in a table."
    svg = plots.per_attack(f"unseen{i}", label, list(points.items()), hollow=hollow)
    caption = f"Accuracy under threat models of many kinds on {group.title}, with 95 % intervals."
    caption += " Hollow: the one trained against." if hollow else ""
    head = [Cell("Threat model"), *(Cell(mark.name, mark=mark) for mark in marks), Cell("Attack")]
    title = f"Accuracy (95 % interval) under threat models of other kinds on {group.title}{_counted(runs)}."
    lead = Text(
        "Each of these was attacked with one attack of a modest budget, so every accuracy is an upper bound. A ball "
        "that an earlier section attacks with a whole suite stands here for comparison only."
    )
    figure = Figures((Figure(svg, caption, marks),))
    return [Heading(_titled("Threat models of other kinds", group)), lead, figure, Table(title, head, rows)]


def _described(name: str, threat: Mapping[str, Any]) -> str:
    """A threat model with its size: "Patch of 2 × 2 pixels"."""
    match text(threat, "norm"):
        case "patch" if (side := number(threat, "side")) is not None:
            return f"{short(name)} of {side:g} × {side:g} pixels"
        case "masked" if (share := number(threat, "share")) is not None:
            return f"{short(name)}, {words.percent(share)} of the pixels"
        case "rotation-translation":
            degrees, shift = number(threat, "degrees"), number(threat, "shift")
            if degrees is not None and shift is not None:
                return f"{short(name)} by up to {degrees:g}°, shift by up to {100 * shift:g} %"
        case "flow" if (pixels := number(threat, "max_pixels")) is not None:
            return f"{short(name)} of up to {pixels:g} pixel{'s' * (pixels != 1)}"
        case "colour":
            parts = [f"{key} {words.plain(threat[key])}" for key in ("contrast", "brightness", "gain") if key in threat]
            return f"{short(name)} ({', '.join(parts)})" if parts else short(name)
        case norm if norm in words.NORMS:
            return words.threat_name(threat)
    return short(name)


def short(name: str) -> str:
    """A threat model's name with a capital: "linf" -> "L-infinity"."""
    return words.NORMS.get(name) or name[:1].upper() + name[1:]


def _counted(runs: Sequence[Run]) -> str:
    found = {e.n for run in runs for result in unseen(run).values() if (e := estimate(result)) and e.n is not None}
    return f", n = {words.listing([words.whole(n) for n in sorted(found)])}" if found else ""


def _titled(title: str, group: Group) -> str:
    return f"{title} on {group.title}"


def _outside(group: Group) -> list[Block]:
    """How well the model's confidence tells its own data from another data set's."""
    rows = []
    for run in group.runs:
        part = mapping(run.record, "evaluation", "outside")
        for score, figures in mapping(part, "scores").items():
            auroc, fpr = estimate(find(figures, "auroc"), "value"), estimate(find(figures, "fpr95"), "value")
            if auroc is None and fpr is None:
                continue
            sure = [number(part, side, "mean_confidence") for side in ("inside", "outside")]
            rows.append(
                [
                    Cell(run.name, mark=facts.mark(run)),
                    Cell(text(part, "data") or "unnamed data"),
                    Cell(SCORES.get(score, score)),
                    Cell(words.error(auroc)),
                    Cell(words.share(fpr)),
                    Cell(" / ".join("–" if value is None else words.percent(value) for value in sure)),
                    Cell(" / ".join(words.whole(count(part, key)) for key in ("n_in", "n_out"))),
                ]
            )
    if not rows:
        return []
    lead = Text(
        "The images of another data set have no right answer here. AUROC is the chance that the model is surer of one "
        "of its own images than of one from elsewhere: 0.5 is a coin, 1 is perfect. FPR95 is the share of the others "
        "that still pass when 95 % of its own do; lower is better."
    )
    head = ["Run", "Other data", "Score", "AUROC", "FPR95", "Mean confidence, own / other", "n, own / other"]
    table = Table(f"Telling {group.title} from other data, with 95 % intervals.", [Cell(title) for title in head], rows)
    return [Heading(_titled("Data from elsewhere against confidence", group)), lead, table]

"""Threat models of other kinds than the one trained against: other balls, patches, frames, rotations, flow, colour."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.report import facts, plots, words
from sparring.report.blocks import Block, Cell, Figure, Figures, Heading, Mark, Table, Text
from sparring.report.facts import Group
from sparring.report.read import Estimate, Run, estimate, find, mapping, number, text


def results(run: Run) -> dict[str, Mapping[str, Any]]:
    """Threat model to result, those that have one."""
    found = mapping(run.record, "evaluation", "unseen")
    return {name: mapping(result) for name, result in found.items() if estimate(result) is not None}


def trained_against(run: Run, result: Mapping[str, Any]) -> bool:
    """Whether a threat model is that of training; a record also marks it for standard training, which has none."""
    return find(result, "trained") is True and facts.adversarial(run)


def pairs(run: Run, base: Run) -> list[tuple[str, Estimate, Estimate]]:
    """Accuracy of both under each threat model that neither trained against and that both were attacked alike in."""
    others = {_key(name, result): result for name, result in results(base).items()}
    found = []
    for name, result in results(run).items():
        other = others.get(_key(name, result))
        if other is not None and not trained_against(run, result) and not trained_against(base, other):
            one, its = estimate(result), estimate(other)
            found += [(short(name), one, its)] if one and its else []
    return found


def blocks(group: Group, i: int) -> list[Block]:
    """A dot plot and a table: a row is a threat model with the attack on it."""
    runs = [run for run in group.runs if results(run)]
    if not runs:
        return []
    cells: dict[tuple[str, str, str], dict[int, Mapping[str, Any]]] = {}
    for run in runs:
        for name, result in results(run).items():
            cells.setdefault(_key(name, result), {})[run.index] = result
    keys = sorted(cells, key=lambda key: key[0] not in words.NORMS)
    marks = [facts.mark(run) for run in runs]
    lead = Text(
        "Each of these was attacked with one attack of a modest budget, so every accuracy is an upper bound. A ball "
        "that an earlier section attacks with a whole suite stands here for comparison only."
    )
    head = [Cell("Threat model"), *(Cell(mark.name, mark=mark) for mark in marks), Cell("Attack")]
    title = f"Accuracy (95 % interval) under threat models of other kinds on {group.title}{_counted(runs)}."
    table = Table(title, head, [_row(key[0], cells[key], runs) for key in keys])
    figure = _figure(group, i, [(key[0], cells[key]) for key in keys], runs)
    return [Heading(f"Threat models of other kinds on {group.title}"), lead, Figures((figure,)), table]


def _key(name: str, result: Mapping[str, Any]) -> tuple[str, str, str]:
    """Two runs share a row only if threat model and attack are the same."""
    threat = repr(sorted((key, repr(value)) for key, value in mapping(result, "threat").items()))
    return name, threat, _attack(result)


def _attack(result: Mapping[str, Any]) -> str:
    parameters = mapping(result, "parameters")
    parts = (words.attack(text(parameters, "attack")), words.settings(parameters))
    return "; ".join(part for part in parts if part)


def _row(name: str, found: Mapping[int, Mapping[str, Any]], runs: Sequence[Run]) -> list[Cell]:
    first = next(iter(found.values()))
    row = [Cell(_described(name, mapping(first, "threat")))]
    for run in runs:
        result = found.get(run.index, {})
        e = estimate(result)
        row.append(Cell(words.share(e), share=e, detail="trained against" if trained_against(run, result) else ""))
    return [*row, Cell(_attack(first) or "not recorded", "quiet")]


def _figure(
    group: Group, i: int, rows: Sequence[tuple[str, Mapping[int, Mapping[str, Any]]]], runs: Sequence[Run]
) -> Figure:
    points: dict[str, list[tuple[Mark, Estimate]]] = {}
    hollow = set()
    for name, found in rows:
        for run in runs:
            if (e := estimate(found.get(run.index))) is not None:
                points.setdefault(short(name), []).append((facts.mark(run), e))
                hollow |= {(short(name), facts.mark(run))} if trained_against(run, found[run.index]) else set()
    label = f"Accuracy under threat models of other kinds on {group.title}; the numbers follow in a table."
    svg = plots.per_attack(f"unseen{i}", label, list(points.items()), hollow=hollow)
    caption = f"Accuracy under threat models of many kinds on {group.title}, with 95 % intervals."
    caption += " Hollow: the one trained against." if hollow else ""
    return Figure(svg, caption, [facts.mark(run) for run in runs])


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
    found = {e.n for run in runs for result in results(run).values() if (e := estimate(result)) and e.n is not None}
    return f", n = {words.listing([words.whole(n) for n in sorted(found)])}" if found else ""

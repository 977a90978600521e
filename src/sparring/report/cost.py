"""The section on what the robustness cost to train, and what it cost to measure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparring.report import facts, unseen, words
from sparring.report.blocks import Block, Cell, Heading, Table, Text
from sparring.report.read import Run, count, mapping, number, text


def cost(runs: Sequence[Run]) -> list[Block]:
    """Training and evaluation of every run, then each attack's passes through the model."""
    lead = Text(
        "The cost of a training step is given as a multiple of a standard training step that was timed in the same run "
        "on the same machine, so that it means something on other machines too. Seconds do not."
    )
    counted = any(row[3] is not None for run in runs for row in _attacks(run))
    head = ["Run", "A step, × standard training", "Training", "Evaluation", "Hardware"]
    blocks: list[Block] = [lead, Table("What each run cost.", [Cell(title) for title in head], [_row(r) for r in runs])]
    if counted:
        blocks.append(
            Text(
                "What an attack costs is counted in passes of one example through the model, forward and backward, "
                "which means the same on every machine. Examples that are lost leave at once, so the median may be far "
                "below the largest. One that withstands the attack on a faster copy of the model may be attacked again "
                "on the model itself, and so cost twice. An attack without gradients pays in queries: its forward "
                "passes."
            )
        )
    for run in runs:
        rows = list(_attacks(run))
        if any(row[3] is not None for row in rows):
            blocks += [Heading("attack by attack", facts.mark(run)), _passes(run, rows)]
    return blocks


def _row(run: Run) -> list[Cell]:
    ratio = number(run.record, "timing", "step_ratio")
    low, high = number(run.record, "timing", "step_ratio_low"), number(run.record, "timing", "step_ratio_high")
    n = count(run.record, "timing", "step_ratio_n")
    said = "not measured" if ratio is None else f"{ratio:.1f} ×"
    said += f" ({low:.1f} to {high:.1f})" if ratio is not None and low is not None and high is not None else ""
    said += f", n = {n}" if ratio is not None and n is not None else ""
    seconds = [number(view.record, "evaluation", "seconds") for view in facts.views(run)]
    known = [value for value in seconds if value is not None]
    return [
        Cell(run.name, mark=facts.mark(run)),
        Cell(said),
        Cell(words.duration(number(run.record, "timing", "seconds"))),
        Cell(words.duration(sum(known) if known else None)),
        Cell(_hardware(run), "quiet"),
    ]


def _hardware(run: Run) -> str:
    parts = [text(run.record, "hardware", "device"), text(run.record, "hardware", "processor")]
    if (cores := count(run.record, "hardware", "cores")) is not None:
        parts.append(f"{cores} core{'s' * (cores != 1)}")
    if (memory := number(run.record, "hardware", "memory_gib")) is not None:
        parts.append(f"{memory:.1f} GiB memory")
    return ", ".join(part for part in parts if part) or "not recorded"


def _attacks(run: Run) -> Iterator[tuple[str, str, Mapping[str, Any], float | None]]:
    """Attack, threat model, result and forward passes, of every attack that the record has."""
    for view in facts.views(run):
        under = words.threat_name(facts.threat(view))
        for name in facts.attacks(view):
            result = mapping(facts.results(view)[name])
            yield words.attack(name), under, result, number(result, "forwards")
    for name, result in unseen.results(run).items():
        attack = words.attack(text(result, "parameters", "attack")) or "one attack"
        yield attack, unseen.short(name), result, number(result, "forwards")


def _passes(run: Run, rows: Sequence[tuple[str, str, Mapping[str, Any], float | None]]) -> Table:
    head = ["Attack", "Examples", "Forward", "Backward", "Median / largest", "Queries allowed", "Time"]
    cells = []
    for attack, threat, result, forwards in rows:
        allowed = number(result, "parameters", "queries")
        blind = allowed is not None and not number(result, "backwards")
        most = [number(result, key) for key in ("forwards_median", "forwards_largest")]
        cells.append(
            [
                Cell(attack, detail=threat),
                Cell(words.whole(count(result, "attempted"))),
                Cell(words.whole(forwards)),
                Cell(words.whole(number(result, "backwards"))),
                Cell(" / ".join(words.whole(value) for value in most) if any(v is not None for v in most) else "–"),
                Cell(words.whole(allowed) if blind else "–"),
                Cell(words.duration(number(result, "seconds"))),
            ]
        )
    caption = (
        f"Passes through the model that each attack on {run.name} took: {_total(rows, 'forwards')} forward and "
        f"{_total(rows, 'backwards')} backward in all. Median and largest: forward passes for one example."
    )
    return Table(caption, [Cell(title) for title in head], cells)


def _total(rows: Sequence[tuple[str, str, Mapping[str, Any], float | None]], key: str) -> str:
    return words.whole(sum(number(result, key) or 0 for _, _, result, _ in rows))

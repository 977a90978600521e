"""The sections that let a reader doubt and repeat: cost, checks, configuration, and what was not measured."""

from collections.abc import Sequence

from sparring.report import facts, words
from sparring.report.blocks import Block, Bullets, Cell, Code, Heading, Table, Text
from sparring.report.read import Run, count, find, mapping, number, text


def cost(runs: Sequence[Run]) -> list[Block]:
    """What the robustness cost."""
    head = ["Run", "A step, × standard training", "Training", "Evaluation", "Hardware"]
    rows = []
    for run in runs:
        ratio = number(run.record, "timing", "step_ratio")
        low, high = number(run.record, "timing", "step_ratio_low"), number(run.record, "timing", "step_ratio_high")
        n = count(run.record, "timing", "step_ratio_n")
        said = "not measured" if ratio is None else f"{ratio:.1f} ×"
        said += f" ({low:.1f} to {high:.1f})" if ratio is not None and low is not None and high is not None else ""
        said += f", n = {n}" if ratio is not None and n is not None else ""
        rows.append(
            [
                Cell(run.name, mark=facts.mark(run)),
                Cell(said),
                Cell(words.duration(number(run.record, "timing", "seconds"))),
                Cell(words.duration(number(run.record, "evaluation", "seconds"))),
                Cell(_hardware(run), "quiet"),
            ]
        )
    lead = Text(
        "The cost of a training step is given as a multiple of a standard training step that was timed in the same run "
        "on the same machine, so that it means something on other machines too. Seconds do not."
    )
    return [lead, Table("What each run cost.", [Cell(title) for title in head], rows)]


def _hardware(run: Run) -> str:
    parts = [text(run.record, "hardware", "device"), text(run.record, "hardware", "processor")]
    if (cores := count(run.record, "hardware", "cores")) is not None:
        parts.append(f"{cores} core{'s' * (cores != 1)}")
    if (memory := number(run.record, "hardware", "memory_gib")) is not None:
        parts.append(f"{memory:.1f} GiB memory")
    return ", ".join(part for part in parts if part) or "not recorded"


def checks(runs: Sequence[Run]) -> list[Block]:
    """Is there reason to doubt the numbers above?"""
    blocks: list[Block] = [
        Text(
            "Each check looks for a way in which an evaluation fools itself, such as gradients that lead the attack "
            "nowhere. A failed check means that the accuracy under attack may be too high."
        )
    ]
    for run in runs:
        found = facts.checks(run)
        if not found:
            continue
        rows = []
        for check in found:
            passed = text(check, "verdict") == "pass"
            verdict = "pass" if passed else text(check, "verdict") or "unknown"
            rows.append(
                [
                    Cell(text(check, "name") or "unnamed"),
                    Cell(verdict, "good" if passed else "bad"),
                    Cell(text(check, "figure") or "–"),
                    Cell(text(check, "advice") or "–", "quiet" if passed else ""),
                ]
            )
        head = [Cell(title) for title in ("Check", "Verdict", "Figure", "Advice")]
        blocks += [Heading(run.name, facts.mark(run)), Table(f"Checks on the evaluation of {run.name}.", head, rows)]
    return blocks + facts.lacking(runs, lambda run: bool(facts.checks(run)), "no checks")


def configuration(runs: Sequence[Run]) -> list[Block]:
    """Everything needed to do it again."""
    blocks: list[Block] = []
    for run in runs:
        commands = [text(run.record, "command"), text(run.record, "evaluation", "command")]
        commit = text(run.record, "commit")
        versions = [f"{name} {words.plain(version)}" for name, version in mapping(run.record, "versions").items()]
        said = [f"Commit {commit}" if commit else "No commit recorded, so the code is not pinned", *versions]
        blocks += [Heading(run.name, facts.mark(run)), Text(", ".join(said) + ".", note=not commit)]
        if any(commands):
            blocks.append(Code("Commands", "\n".join(command for command in commands if command)))
        else:
            blocks.append(Text("The record holds no command.", note=True))
        blocks.append(_settings(run))
    return blocks


def _settings(run: Run) -> Table:
    rows = []
    evaluation = {key: find(run.record, "evaluation", key) for key in ("n", "split", "seed", "weights", "threat")}
    evaluation = {key: value for key, value in evaluation.items() if value is not None}
    parts = [(key, mapping(run.record, key)) for key in ("config", "training", "data", "model", "versions", "hardware")]
    for title, part in [*parts, ("evaluation", evaluation), ("run", {"seed": find(run.record, "seed")})]:
        rows += [[Cell(f"{title}.{key}"), Cell(words.plain(value))] for key, value in part.items()]
    return Table(
        f"All settings and versions of {run.letter} {run.name}", [Cell("Setting"), Cell("Value")], rows, folded=True
    )


def unmeasured(missing: Sequence[str]) -> list[Block]:
    """The list of what no number here speaks about."""
    return [Text("A number says nothing about what was not tried. This report does not show:"), Bullets(missing)]

"""The sections that let a reader repeat the work: configuration, and what was not measured."""

from collections.abc import Sequence

from sparring.report import facts, words
from sparring.report.blocks import Block, Bullets, Cell, Code, Heading, Table, Text
from sparring.report.read import Run, find, mapping, text


def configuration(runs: Sequence[Run]) -> list[Block]:
    """Everything needed to do it again."""
    blocks: list[Block] = []
    for run in runs:
        commands = [text(run.record, "command"), text(run.record, "evaluation", "command")]
        commit = text(run.record, "commit")
        versions = [f"{name} {words.plain(version)}" for name, version in mapping(run.record, "versions").items()]
        said = [f"Commit {commit}" if commit else "No commit recorded, so the code is not pinned", *versions]
        blocks += [Heading("", facts.mark(run)), Text(", ".join(said) + ".", note=not commit)]
        if any(commands):
            blocks.append(Code("Commands", "\n".join(command for command in commands if command)))
        else:
            blocks.append(Text("The record holds no command.", note=True))
        blocks.append(_settings(run))
    return blocks


def _settings(run: Run) -> Table:
    rows = []
    evaluation = {
        key: find(run.record, "evaluation", key) for key in ("n", "split", "seed", "weights", "threat", "suite")
    }
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

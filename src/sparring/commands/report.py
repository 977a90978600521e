"""`sparring report RUN [RUN ...]`: one page for a person, the same in Markdown, the same in JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sparring import report
from sparring.commands.flags import new_folder, parse


@dataclass(frozen=True)
class Flags:
    """Write report.html, report.md and report.json from one or several evaluated runs."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = ()
    """The run folders."""
    run: Path | None = None
    """Folder to write into; by default the run's own, or a new one under runs/ for several runs."""
    seed: int = 0
    """Of the choice of images to show."""


def run(arguments: Sequence[str]) -> int:
    """Write the report, and return the exit code."""
    flags = parse(Flags, arguments, prog="sparring report", description=Flags.__doc__ or "")
    folders = flags.runs or ((flags.run,) if flags.run else ())
    if not folders:
        raise ValueError("report needs at least one run folder: sparring report RUN [RUN ...].")
    out = flags.run or (folders[0] if len(folders) == 1 else new_folder("report"))
    written = report.write(folders, out, seed=flags.seed)
    print(written.html)
    return 0

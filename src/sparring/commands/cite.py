"""`sparring cite NAME`: BibTeX of what a system, or a run, uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sparring import systems
from sparring.commands.flags import parse
from sparring.engine import record


@dataclass(frozen=True)
class Flags:
    """Print the BibTeX of what a system uses, or of what ran in a run folder."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None
    """A system."""
    run: Path | None = None
    """A run folder, instead of a name."""
    seed: int = 0
    """Taken by every command; nothing here is random."""


def run(arguments: Sequence[str]) -> int:
    """Print the citation, and return the exit code."""
    flags = parse(Flags, arguments, prog="sparring cite", description=Flags.__doc__ or "")
    if (flags.name is None) == (flags.run is None):
        raise ValueError("cite needs one of a system's name and --run DIR.")
    name = flags.name if flags.run is None else record.read(flags.run)["system"]
    print(systems.find(str(name)).citation)
    return 0

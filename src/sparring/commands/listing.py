"""`sparring list`: the systems, attacks, data sets and models there are, and the runs made so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparring.attacks import ATTACKS
from sparring.commands.flags import RUNS, parse
from sparring.domains.image.data import NAMES as DATA
from sparring.domains.image.models import SPECS
from sparring.engine import record
from sparring.systems import NAMES as SYSTEMS


@dataclass(frozen=True)
class Flags:
    """List the systems, attacks, data sets and models there are, and the runs under a folder."""

    run: Path | None = None
    """A run folder, or a folder of them; by default runs/."""
    seed: int = 0
    """Taken by every command; nothing here is random."""


def run(arguments: Sequence[str]) -> int:
    """Print the lists, and return the exit code."""
    flags = parse(Flags, arguments, prog="sparring list", description=Flags.__doc__ or "")
    print("systems (sparring train SYSTEM --help shows the card and every flag)")
    for name, summary in SYSTEMS:
        print(f"  {name:<12}{summary}")
    print("attacks (from MODULE import NAME; docs/evaluation.md)")
    for name, module, summary in ATTACKS:
        print(f"  {name:<16}{module.removeprefix('sparring.'):<28}{summary}")
    print(f"data    {', '.join(DATA)}, hf:NAME, or a path")
    print(f"models  {', '.join(SPECS)} (any wrn-DEPTH-WIDTH), or package.module:factory")
    place = flags.run or RUNS
    folders = [place] if (place / record.FILE).exists() else sorted(f.parent for f in place.glob(f"*/{record.FILE}"))
    if folders:
        print("runs")
    for folder in folders:
        print(f"  {folder}: {_state(folder)}")
    return 0


def _state(folder: Path) -> str:
    try:
        facts = record.read(folder)
    except record.RecordError as error:
        return str(error)
    text = f"{facts['system']} on {facts['data']['name']}, seed {facts['seed']}, {facts['status']}"
    if evaluation := facts.get("evaluation"):
        results, threat = evaluation["results"], evaluation["threat"]
        text += f"; clean {results['clean']['accuracy']:.1%}, worst case {results['worst']['accuracy']:.1%}"
        text += f" ({threat['norm']} {threat['eps']:.4g}, n {evaluation['n']})"
    return text

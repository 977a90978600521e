"""`sparring list`: the systems, attacks, data sets and models there are, and the runs made so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparring.attacks import ATTACKS
from sparring.commands.flags import RUNS, parse
from sparring.domains.flow import models as flow_models
from sparring.domains.flow import read as flow_data
from sparring.domains.image import data as image_data
from sparring.domains.image import models as image_models
from sparring.domains.text import models as text_models
from sparring.domains.text import published as text_data
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
    print(*described(), sep="\n")
    print("attacks (from MODULE import NAME; docs/evaluation.md)")
    for name, module, summary in ATTACKS:
        print(f"  {name:<16}{module.removeprefix('sparring.'):<28}{summary}")
    print("data sets (or hf:NAME, or a path; docs/data.md, docs/flows.md, docs/text.md)")
    for domain, names in (("images", image_data.NAMES), ("flows", flow_data.NAMES), ("texts", text_data.NAMES)):
        print(f"  {domain:<8}{', '.join(names)}")
    print("models")
    print(f"  images  {', '.join(image_models.SPECS)} (any wrn-DEPTH-WIDTH), or package.module:factory")
    print(f"  flows   {', '.join(flow_models.SPECS)}")
    print(f"  texts   {', '.join(text_models.SPECS)}")
    place = flags.run or RUNS
    folders = [place] if (place / record.FILE).exists() else sorted(f.parent for f in place.glob(f"*/{record.FILE}"))
    if folders:
        print("runs")
    for folder in folders:
        print(f"  {folder}: {_state(folder)}")
    return 0


def described() -> list[str]:
    """A line for each system: its name and what it plays."""
    width = max(len(name) for name, _ in SYSTEMS) + 2
    return [f"  {name:<{width}}{summary}" for name, summary in SYSTEMS]


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

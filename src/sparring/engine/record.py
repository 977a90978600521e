"""The run record: one JSON file that says what was run, on what, and what came out, written atomically as it grows."""

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from sparring.engine import checkpoint

Record = dict[str, Any]

FILE = "record.json"
FORMAT = 1
IDENTITY = ("system", "config", "training", "data", "model", "seed")
"""What makes two runs the same run; everything else in a record is circumstance or result."""

_PACKAGES = ("sparring", "torch", "numpy", "lightning-fabric", "torchmetrics", "safetensors", "scikit-learn", "pillow")


class RecordError(ValueError):
    """A run folder that cannot be used as asked."""


def read(folder: Path) -> Record:
    """The record of a run folder. Raises RecordError where there is none or it is not one."""
    path = folder / FILE
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RecordError(f"{folder} is not a run folder: it has no {FILE}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise RecordError(f"{path} must be a run record of format {FORMAT}.")
    return record


def write(folder: Path, record: Record) -> None:
    """Write the record atomically."""
    checkpoint.write(folder / FILE, json.dumps(record, indent=1, allow_nan=False).encode())


def opened(folder: Path, identity: Record, command: str, circumstance: Record) -> Record:
    """The record of the run in a folder: what is there, if it is the run of this identity (`IDENTITY`), or a new one.

    Raises:
        RecordError: where the folder holds another run, or other files.
    """
    if not (folder / FILE).exists():
        if folder.exists() and any(not path.name.endswith(".tmp") for path in folder.iterdir()):
            raise RecordError(f"The run folder {folder} must be new or hold a run. It holds other files.")
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"format": FORMAT, "status": "running", **identity, "command": command}
        return {**facts, **circumstance, "history": []}
    run = read(folder)
    if different := differences(run, identity):
        raise RecordError(
            f"The run folder {folder} holds a run with another configuration ({'; '.join(different[:5])}). "
            "Choose another --run, or repeat the command that made it."
        )
    return run


def differences(record: Record, other: Record) -> list[str]:
    """What differs between the identities of two runs, as `name: this != that`, a line per leaf."""
    ours, theirs = ({key: json.loads(json.dumps(r.get(key))) for key in IDENTITY} for r in (record, other))
    return list(_differences("", ours, theirs))


def environment(device: torch.device) -> Record:
    """Versions, commit and hardware, for a record."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    hardware: Record = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "device": device.type if device.type == "cpu" else f"{device.type}: {_accelerator(device)}",
    }
    return {"versions": versions, "commit": _commit(), "hardware": hardware}


def _differences(name: str, ours: Any, theirs: Any) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = list(ours | theirs)
        return [
            line
            for key in keys
            for line in _differences(f"{name}.{key}" if name else key, ours.get(key), theirs.get(key))
        ]
    return [] if ours == theirs else [f"{name}: {ours!r} != {theirs!r}"]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _accelerator(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, with `+` where it has changes; None if installed."""

    def git(*arguments: str) -> str:
        here = str(Path(__file__).resolve().parent)
        done = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()

    try:
        head, changed = git("rev-parse", "--short=12", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")

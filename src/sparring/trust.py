"""Which model factories this user has named on this machine.

A run folder may come from anywhere, and its record may name any `package.module:factory`. Importing one runs code, so
a factory that only a record names is imported only if this user has typed it before, here.
"""

import json
import os
from pathlib import Path


def ledger() -> Path:
    """Where the list is kept: `$XDG_STATE_HOME/sparring/factories.json`, by default under `~/.local/state`."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "sparring" / "factories.json"


def known() -> list[str]:
    """The factories that `remember` was told of; none where the list is missing or damaged."""
    try:
        listed = json.loads(ledger().read_text())
    except (OSError, ValueError):
        return []
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


def remember(factory: str) -> None:
    """Note a factory that the user typed. Where the list cannot be written, the user will be asked to type it again."""
    names = known()
    if factory in names:
        return
    try:
        ledger().parent.mkdir(parents=True, exist_ok=True)
        ledger().write_text(json.dumps([*names, factory], indent=1))
    except OSError:
        return

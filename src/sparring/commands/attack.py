"""`sparring attack KIND ...`: attack a file's examples and show what falls. One module each."""

import importlib
from collections.abc import Sequence

KINDS = (("text", "sparring.commands.text_attack", "texts of a file, with labels or without"),)
"""What can be attacked, the module that does it, and in words."""


def run(arguments: Sequence[str]) -> int:
    """Attack, and return the exit code."""
    known = {name: module for name, module, _ in KINDS}
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: sparring attack KIND MODEL ...\n\nKIND is one of")
        print("\n".join(f"  {name:<8}{what}" for name, _, what in KINDS))
        print("\nsparring attack KIND --help tells the rest.")
        return 0 if arguments else 2
    if arguments[0] not in known:
        raise ValueError(f"sparring attack needs one of {', '.join(known)} first. Got {arguments[0]!r} instead.")
    code: int = importlib.import_module(known[arguments[0]]).run(arguments[1:])
    return code

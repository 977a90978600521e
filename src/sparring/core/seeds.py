"""Seeds as functions of position: every random draw of a run depends on (seed, what it is for, where in the run).

Nothing has to be saved to resume exactly, and a batch can be dealt again to look at it.
"""

import hashlib


def derive(seed: int, *labels: str | int) -> int:
    """A 63-bit seed that differs for any other seed or labels."""
    text = "/".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

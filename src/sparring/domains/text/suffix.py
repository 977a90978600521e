"""A suffix of token ids: what GCG and its kin search, one position at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Suffix:
    """Every id of a suffix may be any of those allowed; its length stays. A site is a position.

    Args:
        allowed: ids, each once: those of printable tokens, say.
    """

    allowed: Ids

    def __post_init__(self) -> None:
        if not self.allowed or len(set(self.allowed)) != len(self.allowed) or min(self.allowed) < 0:
            raise ValueError("The 'allowed' parameter of Suffix must be ids, each once, none below 0, at least one.")

    def sites(self, x: Ids) -> Sequence[int]:
        return range(len(x))

    def edits(self, z: Ids, x: Ids, site: int) -> Sequence[Ids]:
        others = dict.fromkeys((x[site], *self.allowed))
        return [(*z[:site], each, *z[site + 1 :]) for each in others if each != z[site]]

    def without(self, z: Ids, site: int) -> Ids:
        return (*z[:site], *z[site + 1 :])

    def graft(self, z: Ids, donor: Ids, site: int) -> Ids:
        """z with the donor's id at this site."""
        return (*z[:site], donor[site], *z[site + 1 :])

    def contains(self, z: Ids, x: Ids) -> bool:
        return len(z) == len(x) and all(new == old or new in self.allowed for new, old in zip(z, x, strict=True))

    def changes(self, z: Ids, x: Ids) -> int:
        return sum(new != old for new, old in zip(z, x, strict=True))

    def describe(self) -> dict[str, Any]:
        return {"threat": "suffix", "allowed": len(self.allowed)}

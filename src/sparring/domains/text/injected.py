"""An instruction hidden in data: the text that a model was to work on asks for something else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparring.domains.text.words import Text

PLACES = ("start", "end")


@dataclass(frozen=True)
class Injected:
    """One of several instructions before or behind the text, or none. There is one site, 0: the whole of it.

    Args:
        pool: the instructions, each once, of any number of words.
        places: where they may stand, out of `PLACES`.
        between: what parts an instruction from the text.
    """

    pool: tuple[str, ...]
    places: tuple[str, ...] = PLACES
    between: str = "\n"

    def __post_init__(self) -> None:
        if not self.pool or not all(self.pool) or len(set(self.pool)) != len(self.pool):
            raise ValueError("The 'pool' parameter of Injected must be instructions, each once, none of them empty.")
        if not self.places or not set(self.places) <= set(PLACES):
            raise ValueError(
                f"The 'places' parameter of Injected must be some of {', '.join(PLACES)}. Got {self.places!r} instead."
            )

    def sites(self, x: Text) -> Sequence[int]:
        return (0,)

    def edits(self, z: Text, x: Text, site: int) -> Sequence[Text]:
        made = [x]
        for place in self.places:
            for each in self.pool:
                parts = (each, self.between, str(x)) if place == "start" else (str(x), self.between, each)
                made.append(Text.of("".join(parts)))
        return [each for each in dict.fromkeys(made) if each != z]

    def without(self, z: Text, site: int) -> Text:
        """z: what was put in is known beside the original only, which holds nothing of it."""
        return z

    def contains(self, z: Text, x: Text) -> bool:
        if z == x:
            return True
        string, original = str(z), str(x)
        before = string.removesuffix(self.between + original) if "start" in self.places else string
        behind = string.removeprefix(original + self.between) if "end" in self.places else string
        found = (before != string and before in self.pool) or (behind != string and behind in self.pool)
        return found and Text.of(string) == z

    def changes(self, z: Text, x: Text) -> int:
        return len(z) - len(x)

    def describe(self) -> dict[str, Any]:
        return {"threat": "injected", "pool": len(self.pool), "places": list(self.places), "between": self.between}

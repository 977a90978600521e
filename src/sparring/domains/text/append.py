"""Words behind the text: what makes a classifier of harmful text look away while the harm stays as it was."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparring.domains.text.substitution import check_counts
from sparring.domains.text.words import Text


@dataclass(frozen=True)
class Append:
    """At most `most` words of a pool behind the text. A site is a slot: they are filled from the first and emptied from
    the last, so that an edit at an empty slot fills the first empty one.

    Args:
        pool: the words, each one word of `Text`.
        most: words behind the text, at most.
    """

    pool: tuple[str, ...]
    most: int = 9

    def __post_init__(self) -> None:
        check_counts(type(self).__name__, 1, most=self.most)
        check_pool(type(self).__name__, self.pool)

    def sites(self, x: Text) -> Sequence[int]:
        return range(self.most)

    def edits(self, z: Text, x: Text, site: int) -> Sequence[Text]:
        added = z.words[len(x) :]
        if site < len(added):
            shorter = [_behind(x, added[:-1])] if site == len(added) - 1 else []
            return [*shorter, *(z.put(len(x) + site, word) for word in self.pool if word != added[site])]
        return [_behind(x, (*added, word)) for word in self.pool] if len(added) < self.most else []

    def without(self, z: Text, site: int) -> Text:
        """z: what is behind the text is known beside the original only, where the slots are empty."""
        return z

    def contains(self, z: Text, x: Text) -> bool:
        if z == x:
            return True
        start = len(x.pieces) - 1
        gaps, words = z.pieces[start::2], z.pieces[start + 1 :: 2]
        return (
            0 < len(words) <= self.most
            and z.pieces[:start] == x.pieces[:start]
            and all(word in self.pool for word in words)
            and gaps[0] == (x.pieces[-1] or " " * bool(start))
            and all(gap == " " for gap in gaps[1:-1])
            and gaps[-1] == ""
        )

    def changes(self, z: Text, x: Text) -> int:
        return len(z) - len(x)

    def describe(self) -> dict[str, Any]:
        return {"threat": "append", "most": self.most, "pool": list(self.pool)}


def _behind(x: Text, words: Sequence[str]) -> Text:
    """x with these words behind it, a space between any two."""
    for word in words:
        x = x.insert(len(x), word)
    return x


def check_pool(name: str, pool: Sequence[str]) -> None:
    """Raises ValueError unless there are words in it, each once and one word of `Text`."""
    wrong = [word for word in pool if Text.of(word).pieces != ("", word, "")]
    if not pool or wrong or len(set(pool)) != len(pool):
        got = f"{wrong[0]!r}" if wrong else "a word twice" if pool else "none"
        raise ValueError(f"The 'pool' parameter of {name} must be single words, each once. Got {got}.")

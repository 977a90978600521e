"""Words between the words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparring.domains.text.append import check_pool
from sparring.domains.text.substitution import check_counts
from sparring.domains.text.words import Text


@dataclass(frozen=True)
class Insertion:
    """At most `most` words of a pool anywhere in the text, one in a gap. A site is a gap, the last is the text's end.

    No word is put before its like: which of the two was there would not be known.

    Args:
        pool: the words, each one word of `Text`.
        most: words in all, at most.
    """

    pool: tuple[str, ...]
    most: int = 3

    def __post_init__(self) -> None:
        check_counts(type(self).__name__, 1, most=self.most)
        check_pool(type(self).__name__, self.pool)

    def sites(self, x: Text) -> Sequence[int]:
        return range(len(x) + 1)

    def edits(self, z: Text, x: Text, site: int) -> Sequence[Text]:
        there = _inserted(z, x)
        if site not in there and len(there) >= self.most:
            return []
        after = x.words[site : site + 1]
        words = [word for word in self.pool if (word,) != after and word != there.get(site)]
        made = [_with(x, {**there, site: word}) for word in words]
        if site in there:
            made.append(_with(x, {gap: word for gap, word in there.items() if gap != site}))
        return made

    def without(self, z: Text, site: int) -> Text:
        """z: what was inserted is known beside the original only, whose gaps hold no word."""
        return z

    def contains(self, z: Text, x: Text) -> bool:
        states = {(0, False, 0)}  # words of x that were met, whether the gap before the next is used, words inserted
        for word, gap in zip(z.words, z.gaps, strict=False):
            reached = set()
            for met, used, spent in states:
                before = x.gaps[met]
                if met < len(x) and word == x.words[met] and gap == (" " if used else before):
                    reached.add((met + 1, False, spent))
                like = met < len(x) and word == x.words[met]
                if not used and not like and word in self.pool and gap == (before or ("" if met == 0 else " ")):
                    reached.add((met, True, spent + 1))
            states = reached
        return any(
            met == len(x) and spent <= self.most and z.gaps[-1] == ("" if used else x.gaps[-1])
            for met, used, spent in states
        )

    def changes(self, z: Text, x: Text) -> int:
        return len(z) - len(x)

    def describe(self) -> dict[str, Any]:
        return {"threat": "insertion", "most": self.most, "pool": list(self.pool)}


def _inserted(z: Text, x: Text) -> dict[int, str]:
    """Gap -> the word that z has there and x has not."""
    found, at = {}, 0
    for gap, word in enumerate(x.words):
        if z.words[at] != word:
            found[gap] = z.words[at]
            at += 1
        at += 1
    if at < len(z):
        found[len(x)] = z.words[at]
    return found


def _with(x: Text, words: dict[int, str]) -> Text:
    for gap in sorted(words, reverse=True):
        x = x.insert(gap, words[gap])
    return x

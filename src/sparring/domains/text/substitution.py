"""Words in the place of words: the threat model of TextFooler, PWWS and A2T."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparring.domains.text.neighbours import Neighbours
from sparring.domains.text.words import Text


@dataclass(frozen=True, eq=False)
class Substitution:
    """A share of the words may each be exchanged for one of its substitutes. A site is a word.

    A substitute is spelled as the word was: capitalised, or all in capitals. Gaps and all other words stay.

    Args:
        neighbours: the substitutes.
        share: of a text's words (punctuation marks are words) that may change, in (0, 1], rounded down.
        most: substitutes of a word, at most: the first.
        least: words that may change however short the text is.
    """

    neighbours: Neighbours
    share: float = 0.2
    most: int = 8
    least: int = 1

    def __post_init__(self) -> None:
        check_share(type(self).__name__, self.share)
        check_counts(type(self).__name__, 0, least=self.least)
        check_counts(type(self).__name__, 1, most=self.most)

    def sites(self, x: Text) -> Sequence[int]:
        return [i for i, word in enumerate(x.words) if self._substitutes(word)]

    def edits(self, z: Text, x: Text, site: int) -> Sequence[Text]:
        old, new = x.words[site], z.words[site]
        if new == old and self.changes(z, x) >= allowance(len(x), self.share, self.least):
            return []
        return [z.put(site, each) for each in (old, *self._substitutes(old)) if each != new]

    def without(self, z: Text, site: int) -> Text:
        return z.remove(site)

    def graft(self, z: Text, donor: Text, site: int) -> Text:
        """z with the donor's word at this site."""
        return z.put(site, donor.words[site])

    def contains(self, z: Text, x: Text) -> bool:
        if len(z) != len(x) or z.gaps != x.gaps:
            return False
        changed = [(new, old) for new, old in zip(z.words, x.words, strict=True) if new != old]
        if len(changed) > max(self.least, int(self.share * len(x) + 1e-6)):
            return False
        listed = self.neighbours.sets
        return all(
            any(_spelled(new, each, old) for each in listed.get(old.lower(), ())[: self.most]) for new, old in changed
        )

    def changes(self, z: Text, x: Text) -> int:
        return sum(new != old for new, old in zip(z.words, x.words, strict=True))

    def describe(self) -> dict[str, Any]:
        return {
            "threat": "substitution",
            "share": self.share,
            "least": self.least,
            "most": self.most,
            "neighbours": self.neighbours.describe(),
        }

    def _substitutes(self, word: str) -> list[str]:
        """As they would be spelled in the word's place."""
        found = self.neighbours.of(word)[: self.most]
        if len(word) > 1 and word.isupper():
            return [each.upper() for each in found]
        return [each[0].upper() + each[1:] if word[0].isupper() else each for each in found]


def _spelled(new: str, substitute: str, old: str) -> bool:
    """Whether `new` is the substitute, spelled as `old` is: read off the letters, not made again."""
    if old.isupper() and len(old) > 1:
        return new == new.upper() and new.lower() == substitute.upper().lower()
    first, rest = new[: len(new) - len(substitute) + 1], new[len(new) - len(substitute) + 1 :]
    wanted = substitute[0].upper() if old[0].isupper() else substitute[0]
    return first == wanted and rest == substitute[1:]


def allowance(words: int, share: float, least: int) -> int:
    """How many of a text's words may change: `share` of them, rounded down, and `least` in any case."""
    return max(least, int(share * words + 1e-6))  # 0.29 * 100 is 28.999...


def check_share(name: str, share: float) -> None:
    """Raises ValueError unless share is in (0, 1]."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ValueError(
            f"The 'share' parameter of {name} must be a number in the range (0, 1]. Got {share!r} instead."
        )


def check_counts(name: str, lowest: int, **counts: int) -> None:
    """Raises ValueError unless each is an int of at least `lowest`."""
    for what, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise ValueError(
                f"The {what!r} parameter of {name} must be an int in the range [{lowest}, inf). Got {value!r} instead."
            )

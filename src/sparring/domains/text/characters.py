"""Words misspelt: slips of the finger, and letters of other scripts that look the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sparring.domains.text.look_alikes import HOMOGLYPHS, KEYS
from sparring.domains.text.substitution import allowance, check_counts, check_share
from sparring.domains.text.words import Text

KINDS = ("swap", "delete", "insert", "substitute", "homoglyph")

LONGEST = 40
"""Letters of a word that is misspelt, at most: nobody reads a longer one."""

Slip = tuple[int, int, str]
"""Letters from here to there, and what stands in their place."""


@dataclass(frozen=True)
class Characters:
    """A share of the words may each be misspelt. A site is a word.

    A slip exchanges a letter and the next (swap), drops one (delete), strikes it twice or a key beside it as well
    (insert), strikes a key beside it instead (substitute), or takes a letter that looks the same (homoglyph). No letter
    is part of two slips. After Gao et al., "Black-box generation of adversarial text sequences to evade deep learning
    classifiers", 2018, and Pruthi et al., "Combating adversarial misspellings with robust word recognition", 2019.

    Args:
        per_word: slips in a word, at most.
        share: of a text's words that may be misspelt, in (0, 1], rounded down, but one in any case.
        kinds: of slips, out of `KINDS`.
        shortest: letters of a word that may be misspelt, at least, and more than `per_word`; at most 40.
    """

    per_word: int = 1
    share: float = 0.2
    kinds: tuple[str, ...] = KINDS
    shortest: int = 4

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_counts(name, 1, per_word=self.per_word)
        check_share(name, self.share)
        check_counts(name, self.per_word + 1, shortest=self.shortest)
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ValueError(
                f"The 'kinds' parameter of {name} must be some of {', '.join(KINDS)}. Got {self.kinds!r} instead."
            )

    def sites(self, x: Text) -> Sequence[int]:
        return [i for i, word in enumerate(x.words) if self._may_be_misspelt(word)]

    def edits(self, z: Text, x: Text, site: int) -> Sequence[Text]:
        """With `per_word` above 1, those that are one slip away from z: all others are reached through them."""
        old, new = x.words[site], z.words[site]
        if not self._may_be_misspelt(old) or (new == old and self.changes(z, x) >= allowance(len(x), self.share, 1)):
            return []
        return [z.put(site, each) for each in spellings(old, new, self.per_word, self.kinds)]

    def without(self, z: Text, site: int) -> Text:
        return z.remove(site)

    def graft(self, z: Text, donor: Text, site: int) -> Text:
        """z with the donor's spelling at this site."""
        return z.put(site, donor.words[site])

    def contains(self, z: Text, x: Text) -> bool:
        if len(z) != len(x) or z.gaps != x.gaps:
            return False
        changed = [(new, old) for new, old in zip(z.words, x.words, strict=True) if new != old]
        if len(changed) > max(1, int(self.share * len(x) + 1e-6)):
            return False
        return all(
            self.shortest <= sum(map(str.isalpha, old)) <= LONGEST
            and len(old) <= LONGEST
            and distance(old, new, self.kinds) <= self.per_word
            for new, old in changed
        )

    def changes(self, z: Text, x: Text) -> int:
        return sum(new != old for new, old in zip(z.words, x.words, strict=True))

    def describe(self) -> dict[str, Any]:
        return {
            "threat": "characters",
            "per_word": self.per_word,
            "share": self.share,
            "kinds": list(self.kinds),
            "shortest": self.shortest,
        }

    def _may_be_misspelt(self, word: str) -> bool:
        return len(word) <= LONGEST and sum(map(str.isalpha, word)) >= self.shortest


@lru_cache(maxsize=4096)
def spellings(old: str, new: str, most: int, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """What `old` becomes by at most `most` slips, one of which is made, taken back or exchanged from `new`, which is
    itself such a word and not among them."""
    possible, found = slips(old, kinds), dict[str, None]()
    for plan in _plans(old, new, possible, most):
        bases = [tuple(slip for slip in plan if slip != gone) for gone in plan]
        for base in [plan, *bases] if len(plan) < most else bases:
            found[_slipped(old, base)] = None
            for slip in possible:
                if all(slip[1] <= start or end <= slip[0] for start, end, _ in base):
                    found[_slipped(old, (*base, slip))] = None
    found.pop(new, None)
    return tuple(found)


def slips(word: str, kinds: Sequence[str]) -> list[Slip]:
    """Every single slip in a word."""
    made: list[Slip] = []
    for i, letter in enumerate(word):
        if not letter.isalpha():
            continue
        beside = KEYS.get(letter.lower(), "")
        beside = beside.upper() if letter.isupper() else beside
        after = word[i + 1 : i + 2]
        if "swap" in kinds and after.isalpha() and after != letter:
            made.append((i, i + 2, after + letter))
        if "delete" in kinds:
            made.append((i, i + 1, ""))
        if "insert" in kinds:
            made += [(i, i + 1, letter + other) for other in (letter, *beside)]
        if "substitute" in kinds:
            made += [(i, i + 1, other) for other in beside]
        if "homoglyph" in kinds:
            made += [(i, i + 1, other) for other in HOMOGLYPHS.get(letter, "")]
    return made


def _plans(old: str, new: str, possible: Sequence[Slip], most: int) -> list[tuple[Slip, ...]]:
    """Every set of at most `most` slips that makes `new` of `old`."""

    def from_here(i: int, j: int, left: int) -> Iterator[tuple[Slip, ...]]:
        if i == len(old):
            if j == len(new):
                yield ()
            return
        if new[j : j + 1] == old[i]:
            yield from from_here(i + 1, j + 1, left)
        if left:
            for slip in possible:
                if slip[0] == i and new.startswith(slip[2], j):
                    for rest in from_here(slip[1], j + len(slip[2]), left - 1):
                        yield (slip, *rest)

    return list(from_here(0, 0, most))


def _slipped(word: str, plan: Sequence[Slip]) -> str:
    for start, end, instead in sorted(plan, reverse=True):
        word = word[:start] + instead + word[end:]
    return word


def distance(old: str, new: str, kinds: Sequence[str]) -> float:
    """The fewest slips that make `new` of `old`, no letter part of two; inf where none do. Read off the two words by
    alignment (the recurrence of Damerau and Levenshtein), without making any slip."""
    far = float("inf")
    cost = [[far] * (len(new) + 1) for _ in range(len(old) + 1)]
    cost[0][0] = 0
    for i, letter in enumerate(old, 1):
        for j in range(len(new) + 1):
            last, options = new[j - 1 : j], [far]
            if j and last == letter:
                options.append(cost[i - 1][j - 1])
            if letter.isalpha():
                if "delete" in kinds:
                    options.append(cost[i - 1][j] + 1)
                near = bool(last) and _beside(letter, last)
                alike = last != "" and last in HOMOGLYPHS.get(letter, "")
                if ("substitute" in kinds and near) or ("homoglyph" in kinds and alike):
                    options.append(cost[i - 1][j - 1] + 1)
                if "insert" in kinds and j > 1 and new[j - 2] == letter and (near or last == letter):
                    options.append(cost[i - 1][j - 2] + 1)
                turned = i > 1 and j > 1 and new[j - 2] == letter and last == old[i - 2]
                if "swap" in kinds and turned and last.isalpha() and last != letter:
                    options.append(cost[i - 2][j - 2] + 1)
            cost[i][j] = min(options)
    return cost[-1][-1]


def _beside(letter: str, other: str) -> bool:
    """Whether the other is a key beside the letter's, in the same case."""
    return other.lower() in KEYS.get(letter.lower(), "") and letter.isupper() == other.isupper()

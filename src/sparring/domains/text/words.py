"""A text as words and what stands between them: what a threat model edits one word at a time.

`str(Text.of(s)) == s` for every string. Words are runs of letters and digits with their combining marks, also across an
apostrophe (`don't`, `l'eau`); every punctuation mark and symbol is a word of its own, an emoji with its modifiers and
joiners one word, and so is each Han character or kana, whose scripts leave no space between words. What is left is
white space.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Self


@dataclass(frozen=True, slots=True)
class Text:
    """A text, immutable and hashable.

    Args:
        pieces: gap, word, gap, word, ..., gap: words at the odd places, one gap more than there are words. A gap may be
            empty, a word may not.

    Raises:
        ValueError: where the pieces are no such sequence.
    """

    pieces: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.pieces) % 2 == 0 or not all(self.pieces[1::2]):
            raise ValueError(
                "The 'pieces' parameter must be gap, word, ..., gap, an odd number of strings, no word empty. "
                f"Got {self.pieces!r} instead."
            )

    @classmethod
    def of(cls, string: str) -> Self:
        """The words of a string and the gaps between them."""
        pieces, end = [], 0
        for word in _pattern(string.isascii()).finditer(string):
            pieces += [string[end : word.start()], word.group()]
            end = word.end()
        return cls((*pieces, string[end:]))

    def __str__(self) -> str:
        return "".join(self.pieces)

    def __len__(self) -> int:
        return len(self.pieces) // 2

    @property
    def words(self) -> tuple[str, ...]:
        return self.pieces[1::2]

    @property
    def gaps(self) -> tuple[str, ...]:
        """What stands before each word, and after the last: one more than there are words."""
        return self.pieces[::2]

    def put(self, i: int, word: str) -> Self:
        """Word i replaced. Raises IndexError where there is none."""
        at = self._place(i)
        return type(self)((*self.pieces[:at], word, *self.pieces[at + 1 :]))

    def insert(self, gap: int, word: str) -> Self:
        """A word more, in gap 0 to len(self), as word number `gap`: after what stands in the gap, or a space where
        nothing does, and before a space; no space is added at the beginning or the end of the text."""
        if not 0 <= gap <= len(self):
            raise IndexError(f"The 'gap' parameter must be in the range [0, {len(self)}]. Got {gap!r} instead.")
        before = self.pieces[2 * gap] or ("" if gap == 0 else " ")
        after = "" if gap == len(self) else " "
        return type(self)((*self.pieces[: 2 * gap], before, word, after, *self.pieces[2 * gap + 1 :]))

    def remove(self, i: int) -> Self:
        """Without word i and the gap before it, for the first word the gap after it. Raises IndexError where there is
        none."""
        at = self._place(i)
        start = at if at == 1 and len(self) > 1 else at - 1
        return type(self)((*self.pieces[:start], *self.pieces[start + 2 :]))

    def spans(self) -> list[tuple[int, int]]:
        """The first character of each word in the string, and the one after its last."""
        ends = [0]
        for piece in self.pieces:
            ends.append(ends[-1] + len(piece))
        return list(pairwise(ends))[1::2]

    def _place(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(f"The 'i' parameter must be a word in the range [0, {len(self)}). Got {i!r} instead.")
        return 2 * i + 1


def words_in(string: str) -> list[str]:
    """The words of `Text.of(string)`, without the gaps: what is needed thousands of times a second."""
    return _pattern(string.isascii()).findall(string)


@cache
def _pattern(ascii_only: bool) -> re.Pattern[str]:
    """What a word is. To know all combining marks costs a look at every character there is, a few hundredths of a
    second, which waits for the first text that is not ASCII."""
    if ascii_only:
        return re.compile(r"\w+(?:'\w+)*|[^\s\w]")
    joiners = "\u200c\u200d"  # they shape letters in Persian and Hindi, and hold an emoji together
    marks = _marks() + joiners
    lone = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"  # kana and Han
    run = rf"(?:(?![{lone}])\w[{marks}]*)+"
    sign = rf"[^\s\w][{marks}\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"  # with skin tones and tags
    flag = "[\U0001f1e6-\U0001f1ff]{2}"
    return re.compile(rf"{run}(?:['’]{run})*|[{lone}][{marks}]*|{flag}|{sign}(?:(?<=\u200d){sign})*")


def _marks() -> str:
    """The combining marks, for a character class; none is above the supplementary multilingual plane but the variation
    selectors."""
    places = (*range(0x20000), *range(0xE0100, 0xE01F0))
    return "".join(re.escape(chr(c)) for c in places if unicodedata.category(chr(c)).startswith("M"))

"""An input filter that undoes what only a reader's eye forgives: look-alike letters, invisible characters, odd forms.

It is a defence, so whoever measures it attacks through it: a `Folding` tokenizer is what the attack asks about. A word
is folded only where nothing but Latin is left of it, so that Russian or Greek mostly stays what it is.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from sparring.domains.text.tokens import ByteTokenizer, WordTokenizer
from sparring.domains.text.words import Text

LOOK_ALIKES = (
    ("абсԁеɡһіјӏмոорԛгѕтцѵѡхуᴢ", "abcdeghijlmnopqrstuvwxyz"),
    ("АВСЕНІЈКМОРԚЅТԜХУҮ", "ABCEHIJKMOPQSTWXYY"),
    ("αβϲɛγικνορστυωχ", "abceyikvopotuwx"),
    ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX"),
    ("ıƖɑɩʋԝ", "ilaivw"),
)
"""Letters that look like Latin ones in most fonts, after Unicode Technical Standard 39, "Unicode security
mechanisms"."""

_TO_LATIN = str.maketrans({a: b for strange, latin in LOOK_ALIKES for a, b in zip(strange, latin, strict=True)})


def folded(string: str) -> str:
    """The string in NFKC, without invisible characters, with words of look-alikes written in Latin letters."""
    plain = unicodedata.normalize("NFKC", string)
    if plain.isascii():
        return plain
    plain = "".join(c for c in plain if unicodedata.category(c) != "Cf")
    text = Text.of(plain)
    for i, word in enumerate(text.words):
        if not word.isascii() and (latin := _latin(word)).isascii():
            text = text.put(i, latin)
    return str(text)


def _latin(word: str) -> str:
    """Look-alikes as Latin letters, and Latin letters without accents that were put on them."""
    bare = "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))
    return bare.translate(_TO_LATIN)


@dataclass(frozen=True, eq=False)
class Folding:
    """A tokenizer that reads folded strings: a model behind it is a model with the filter in front.

    Args:
        inner: what reads them then.
    """

    inner: WordTokenizer | ByteTokenizer

    @property
    def vocab_size(self) -> int:
        return self.inner.vocab_size

    @property
    def pad(self) -> int:
        return self.inner.pad

    @property
    def unk(self) -> int:
        return self.inner.unk

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"folding" + self.inner.to_bytes()).hexdigest()

    def encode(self, strings: Sequence[str], length: int) -> Tensor:
        return self.inner.encode([folded(each) for each in strings], length)

    def count(self, strings: Sequence[str]) -> Tensor:
        return self.inner.count([folded(each) for each in strings])

    def spans(self, string: str) -> list[tuple[int, int]]:
        """Of the folded string, which need not be as long as this one."""
        return self.inner.spans(folded(string))

    def decode(self, ids: Sequence[int]) -> str:
        return self.inner.decode(ids)

    def to_bytes(self) -> bytes:
        return self.inner.to_bytes()

"""Tokenizers: from strings to ids and back, fitted on training texts, written as JSON.

Id 0 pads; id 1 stands for what is unknown and for an empty text, which so has one token. No string is read as a
special token: there is nothing that a user could type to get one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from sparring.domains.text.words import Text, words_in

PAD, UNK = 0, 1
OWN = 2
"""Ids that no word has."""


class TokenizerError(ValueError):
    """A tokenizer that cannot be made or read."""


class Tokenizer(Protocol):
    """What a model needs to read a string."""

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""
        ...

    @property
    def pad(self) -> int:
        """The id that fills up rows: 0."""
        ...

    @property
    def unk(self) -> int:
        """The id of what is not in the vocabulary, and of the empty text."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `to_bytes`: two tokenizers with the same one give the same ids."""
        ...

    def encode(self, strings: Sequence[str], length: int) -> Tensor:
        """Ids int64 `[N, L]`, L the longest row's number of tokens, at most `length`: longer texts are cut there."""
        ...

    def count(self, strings: Sequence[str]) -> Tensor:
        """How many tokens each text has, int64 `[N]`, at least 1: where that is above `length`, `encode` cuts."""
        ...

    def spans(self, string: str) -> list[tuple[int, int]]:
        """For each token the first character it is of, and the one after its last; one empty span for a text without
        any."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids, those that pad left out."""
        ...

    def to_bytes(self) -> bytes:
        """All of it, as UTF-8 JSON."""
        ...


@dataclass(frozen=True, eq=False)
class WordTokenizer:
    """One id for each word of `Text`, lower-cased: the sites of words are the positions of tokens.

    Args:
        words: the vocabulary; word k has the id k + 2.

    Raises:
        TokenizerError: where a word is there twice.
    """

    words: tuple[str, ...]
    pad: ClassVar[int] = PAD
    unk: ClassVar[int] = UNK

    def __post_init__(self) -> None:
        if len(self._ids) != len(self.words):
            twice = next(word for word, n in Counter(self.words).items() if n > 1)
            raise TokenizerError(f"The 'words' parameter must hold every word once. Got {twice!r} twice.")

    @classmethod
    def fit(cls, strings: Iterable[str], *, most: int = 20_000, least: int = 2) -> Self:
        """The vocabulary of training texts, the most frequent words first, equally frequent ones in their order.

        Args:
            strings: training texts.
            most: words, at most.
            least: occurrences of a word, at least. Above 1, training meets the unknown word, whose embedding is then
                learnt.
        """
        counts = Counter(word for string in strings for word in _lower(string))
        ranked = sorted((word for word, n in counts.items() if n >= least), key=lambda word: (-counts[word], word))
        return cls(tuple(ranked[:most]))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: k for k, word in enumerate(self.words, OWN)}

    @property
    def vocab_size(self) -> int:
        return len(self.words) + OWN

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def id(self, word: str) -> int:
        """The id of a word in any case; that of the unknown where it is not in the vocabulary."""
        return self._ids.get(word.lower(), UNK)

    def knows(self, word: str) -> bool:
        """Whether a word is in the vocabulary, in any case."""
        return word.lower() in self._ids

    def encode(self, strings: Sequence[str], length: int) -> Tensor:
        known = self._ids
        return padded(
            [[known.get(word, UNK) for word in _lower(string)[:length]] or [UNK] for string in strings], length
        )

    def count(self, strings: Sequence[str]) -> Tensor:
        return torch.tensor([max(1, len(words_in(string))) for string in strings], dtype=torch.long)

    def spans(self, string: str) -> list[tuple[int, int]]:
        return Text.of(string).spans() or [(0, 0)]

    def decode(self, ids: Sequence[int]) -> str:
        """The words, a space between any two; `<unk>` for the unknown."""
        return " ".join("<unk>" if k == UNK else self.words[k - OWN] for k in map(int, ids) if k != PAD)

    def to_bytes(self) -> bytes:
        return json.dumps({"format": 1, "kind": "word", "words": self.words}, ensure_ascii=False).encode()


@dataclass(frozen=True, eq=False)
class ByteTokenizer:
    """Byte-pair encoding over UTF-8 bytes: no string is unknown, and every string comes back from its ids.

    Sennrich et al., "Neural machine translation of rare words with subword units", 2016, over bytes as in Radford et
    al., "Language models are unsupervised multitask learners", 2019. Needs the extra `text`.

    Args:
        merged: the `tokenizers.Tokenizer`, without special tokens; its id k is k + 2 here.
    """

    merged: Any
    pad: ClassVar[int] = PAD
    unk: ClassVar[int] = UNK

    @classmethod
    def fit(cls, strings: Iterable[str], *, most: int = 4000, least: int = 2) -> Self:
        """Merges learnt from training texts; the same texts give the same ones.

        Args:
            strings: training texts.
            most: tokens beside padding and the unknown, at most; all 256 bytes are among them.
            least: occurrences of a pair that is merged, at least.

        Raises:
            TokenizerError: where `tokenizers` is not installed, or `most` is below 256.
        """
        if isinstance(most, bool) or not isinstance(most, int) or most < 256:
            raise TokenizerError(f"The 'most' parameter must be an int in the range [256, inf). Got {most!r} instead.")
        library = _library()
        merged = library.Tokenizer(library.models.BPE())
        merged.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        merged.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=most,
            min_frequency=least,
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        merged.train_from_iterator(map(_utf8, strings), trainer)
        return cls(merged)

    @property
    def vocab_size(self) -> int:
        return int(self.merged.get_vocab_size()) + OWN

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def encode(self, strings: Sequence[str], length: int) -> Tensor:
        return padded([[k + OWN for k in ids[:length]] or [UNK] for ids in self._merge(strings)], length)

    def count(self, strings: Sequence[str]) -> Tensor:
        return torch.tensor([max(1, len(ids)) for ids in self._merge(strings)], dtype=torch.long)

    def spans(self, string: str) -> list[tuple[int, int]]:
        return list(self.merged.encode(_utf8(string)).offsets) or [(0, 0)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text; bytes that are no UTF-8, as where a character is cut in two, become U+FFFD. The unknown token says
        nothing."""
        return str(self.merged.decode([k - OWN for k in map(int, ids) if k >= OWN], skip_special_tokens=False))

    def to_bytes(self) -> bytes:
        merges = json.loads(self.merged.to_str())["model"]
        return json.dumps(
            {"format": 1, "kind": "byte", "vocab": merges["vocab"], "merges": merges["merges"]}, ensure_ascii=False
        ).encode()

    def _merge(self, strings: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.merged.encode_batch([_utf8(string) for string in strings])]


def from_bytes(data: bytes) -> WordTokenizer | ByteTokenizer:
    """The tokenizer that `to_bytes` wrote. Raises TokenizerError where the data is nothing of the kind."""
    try:
        held = json.loads(data)
        if held["format"] != 1:
            raise KeyError(held["format"])
        if held["kind"] == "word":
            return WordTokenizer(tuple(map(str, held["words"])))
        if held["kind"] == "byte":
            library = _library()
            merges = [tuple(pair) for pair in held["merges"]]
            merged = library.Tokenizer(library.models.BPE(vocab=held["vocab"], merges=merges))
            merged.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
            merged.decoder = library.decoders.ByteLevel()
            return ByteTokenizer(merged)
        raise KeyError(held["kind"])
    except TokenizerError:
        raise
    except Exception as error:  # JSON, UTF-8, missing keys, and what the library raises, which is a plain Exception
        raise TokenizerError(f"The data must be what a tokenizer's to_bytes wrote, format 1: {error}") from error


def padded(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """Rows of ids as one int64 tensor, cut at `length` and filled up with 0 to the longest."""
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"The 'length' parameter must be an int in the range [1, inf). Got {length!r} instead.")
    width = min(length, max(map(len, rows), default=1))
    return torch.tensor([[*row[:width], *[PAD] * (width - len(row))] for row in rows], dtype=torch.long).reshape(
        -1, width
    )


def _lower(string: str) -> list[str]:
    return [word.lower() for word in words_in(string)]


def _utf8(string: str) -> str:
    """The string with lone surrogates, which no file of text holds, replaced by question marks."""
    return string.encode("utf-8", "replace").decode("utf-8")


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise TokenizerError("A byte tokenizer needs the tokenizers package: pip install 'sparring[text]'.") from error
    return tokenizers

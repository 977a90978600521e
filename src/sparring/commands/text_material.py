"""What a text run is made of: texts and labels, tokenizer, substitutes, and the words that tricks draw from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sparring.domains.text import neighbours as sources
from sparring.domains.text import pools
from sparring.domains.text.data import Encoded, TextData, Texts, load
from sparring.domains.text.folding import Folding
from sparring.domains.text.neighbours import Neighbours
from sparring.domains.text.tokens import ByteTokenizer, WordTokenizer
from sparring.engine import tracking
from sparring.systems.moderation import Vocabulary, identity_terms

BENIGN = ("neither", "not-hate", "not-offensive", "noHate", "benign", "ham", "none", "0")
"""Names of classes that are harmless, of the data sets known here."""
POOL = 70
"""Harmless words: every other one for training, the rest for its evaluation."""


@dataclass(frozen=True)
class Where:
    """What is trained, on what, and where it goes."""

    data: str = ""
    """A named set (sst2, agnews, sms-spam, davidson, hate-forum, tweeteval-offensive, ...), hf:NAME, or a path of TSV,
    CSV, JSONL or parquet; by default sst2, for moderation davidson."""
    data_root: Path | None = None
    """Folder that the named data sets are looked for in; by default the environment variable SPARRING_DATA."""
    model: str = "transformer"
    """transformer, bow or cnn; bounds over substitutions exist for the last two."""
    tokenizer: Literal["word", "byte"] = "word"
    """word: one id for each word; whatever exchanges words needs it. byte: byte-pair encoding, no word is unknown."""
    length: int = 48
    """Tokens of a text, at most: longer ones are cut, and how many is said."""
    neighbours: str = "ppdb"
    """Substitutes for words: ppdb (folder text_synonyms below SPARRING_DATA), wordnet, a path of a table, or none."""
    most: int = 8
    """Substitutes of a word, at most: the best ones of the source."""
    folding: bool = False
    """Undo look-alike letters and invisible characters before the tokenizer reads a text: part of the classifier."""
    benign: tuple[str, ...] = ()
    """moderation: names of the classes that are harmless; all others are harmful. By default what is known of the
    data."""
    false_positives: float = 0.05
    """moderation: share of held-out benign texts that may be flagged: fixes the threshold."""
    run: Path | None = None
    """The run folder; by default a new one under runs/."""
    seed: int = 0
    """Of everything random in the run."""
    log: tracking.Name = "none"
    """Also tell an experiment tracker, each with an extra of its name: tensorboard, mlflow, wandb."""

    def __post_init__(self) -> None:
        if not 0 < self.false_positives < 1:
            raise ValueError(
                "The 'false_positives' parameter must be a number in the range (0, 1). "
                f"Got {self.false_positives!r} instead."
            )
        for name in ("length", "most"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"The {name!r} parameter must be an int in the range [1, inf). Got {getattr(self, name)}."
                )


@dataclass(frozen=True, eq=False)
class Material:
    """What a run is made of, the same for the same `Where`.

    Args:
        data: with labels as the system wants them.
        tokenizer: fitted on the training texts, without the filter.
        folding: whether the filter is in front of it.
        length: tokens of a text, at most.
        neighbours: substitutes within the tokenizer's vocabulary; empty sets for none.
        most: substitutes of a word, at most.
    """

    data: TextData
    tokenizer: WordTokenizer | ByteTokenizer
    folding: bool
    length: int
    neighbours: Neighbours
    most: int

    @property
    def reader(self) -> WordTokenizer | ByteTokenizer | Folding:
        """What strings go through."""
        return Folding(self.tokenizer) if self.folding else self.tokenizer

    def encoded(self, texts: Texts) -> Encoded:
        """Texts as a source of ids."""
        return Encoded(texts, self.reader, self.length)

    def table(self) -> Tensor | None:
        """The substitutes as ids; None for a tokenizer of bytes, where an id is no word."""
        return self.neighbours.table(self.tokenizer, self.most) if isinstance(self.tokenizer, WordTokenizer) else None

    def harmless(self, half: Literal["train", "test"]) -> tuple[str, ...]:
        """Words to append: every other one that marks class 0 (moderation), or that says least about the class."""
        train = self.data.train
        found: tuple[str, ...] = ()
        for least in (20, 5, 1):  # a small set has no word in twenty texts
            if self.data.classes == HARMFUL:
                found = pools.marking(train.strings, train.y, 0, POOL, least=least)
            else:
                found = pools.neutral(train.strings, train.y, POOL, least=least)
            if len(found) > 1:
                break
        return found[half == "test" :: 2]

    def vocabulary(self) -> Vocabulary:
        """What the tricks of moderation draw from in training."""
        table = self.table()
        assert table is not None
        return Vocabulary(table, self._ids(self.harmless("train")), self._ids(identity_terms()), self.length)

    def _ids(self, words: Sequence[str]) -> Tensor:
        assert isinstance(self.tokenizer, WordTokenizer)
        known = [self.tokenizer.id(word) for word in words if self.tokenizer.knows(word)]
        return torch.tensor(known, dtype=torch.long)


HARMFUL = ("benign", "harmful")
"""The classes of moderation."""


def prepared(where: Where, system: str) -> Material:
    """Read the data, fit the tokenizer and gather substitutes; what was read last is remembered.

    Raises:
        DataError: where something is not there.
        ValueError: for moderation, where no class is known to be harmless, or all are.
    """
    return _prepared(replace(where, run=None, seed=0, log="none"), system)


@lru_cache(maxsize=1)
def _prepared(where: Where, system: str) -> Material:
    data = load(where.data or ("davidson" if system == "moderation" else "sst2"), where.data_root)
    if system == "moderation":
        data = harmful(data, where.benign)
    tokenizer = (WordTokenizer if where.tokenizer == "word" else ByteTokenizer).fit(data.train.strings)
    found = substitutes(where)
    within = found.within(tokenizer) if isinstance(tokenizer, WordTokenizer) else found
    return Material(data, tokenizer, where.folding, where.length, first(within, where.most), where.most)


def substitutes(where: Where) -> Neighbours:
    """The substitutes that `where` names."""
    match where.neighbours:
        case "none":
            return Neighbours("none", {})
        case "ppdb":
            return sources.ppdb(where.data_root)
        case "wordnet":
            return sources.wordnet()
    return sources.from_table(where.neighbours)


def first(found: Neighbours, most: int) -> Neighbours:
    """The best few of every word: what training may exchange, attacks may too, and no more."""
    return Neighbours(found.source, {word: each[:most] for word, each in found.sets.items()})


def harmful(data: TextData, benign: Sequence[str]) -> TextData:
    """The data with two classes, benign and harmful."""
    names = benign or [name for name in data.classes if name in BENIGN]
    unknown = [name for name in names if name not in data.classes]
    if unknown or not 0 < len(names) < len(data.classes):
        raise ValueError(
            f"The 'benign' parameter must name some of the classes {', '.join(data.classes)}, not all. "
            f"Got {', '.join(benign) or 'none, and none is known of this data'}."
        )
    good = torch.tensor([name in names for name in data.classes])

    def relabelled(texts: Texts) -> Texts:
        return replace(texts, y=(~good[texts.y]).long())

    return replace(
        data,
        classes=HARMFUL,
        train=relabelled(data.train),
        validation=relabelled(data.validation),
        test=relabelled(data.test),
    )

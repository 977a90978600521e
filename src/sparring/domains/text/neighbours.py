"""What may stand for a word: substitutes from lists of synonyms, WordNet, embeddings, or a table of your own."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sparring.domains.text.files import DataError, folder_of, words_of
from sparring.domains.text.tokens import OWN, WordTokenizer
from sparring.domains.text.wordnet import synonyms
from sparring.domains.text.words import Text

SYNONYMS = "text_synonyms"
"""Folder of the PPDB lists below the data root."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Substitutes for words, all lower-case, the best first.

    Args:
        source: where they are from, for records.
        sets: word -> its substitutes, without itself, each once and one word of `Text`.

    Raises:
        ValueError: where a substitute is none.
    """

    source: str
    sets: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        for each in {*self.sets, *chain.from_iterable(self.sets.values())}:
            if not _single(each):
                raise ValueError(f"The 'sets' parameter must hold single lower-case words. Got {each!r}.")
        for word, substitutes in self.sets.items():
            if word in substitutes or len(set(substitutes)) != len(substitutes):
                raise ValueError(
                    f"The substitutes of a word must be other words, each once. Got {substitutes!r} for {word!r}."
                )

    def of(self, word: str) -> tuple[str, ...]:
        """The substitutes of a word in any case; none where it is not known."""
        return self.sets.get(word.lower(), ())

    def __len__(self) -> int:
        """Words that have substitutes."""
        return sum(map(bool, self.sets.values()))

    def within(self, tokenizer: WordTokenizer) -> Self:
        """The words and substitutes that a tokenizer knows. Others a model reads as the unknown word, all alike."""
        sets = {word: tuple(each for each in found if tokenizer.knows(each)) for word, found in self.sets.items()}
        return type(self)(self.source, {word: found for word, found in sets.items() if found and tokenizer.knows(word)})

    def table(self, tokenizer: WordTokenizer, most: int) -> Tensor:
        """Ids of the first `most` substitutes in the vocabulary for every id, int64 `[V, most]`; an id stands for
        itself where there are fewer, as padding and the unknown word always do."""
        ids = torch.arange(tokenizer.vocab_size)[:, None].repeat(1, most)
        for k, word in enumerate(tokenizer.words, OWN):
            found = [tokenizer.id(each) for each in self.of(word) if tokenizer.knows(each)][:most]
            ids[k, : len(found)] = torch.tensor(found, dtype=torch.long)
        return ids

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the sets."""
        digest = hashlib.sha256()
        for word in sorted(self.sets):
            digest.update(f"{word}\t{' '.join(self.sets[word])}\n".encode())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What a record needs to name them, as JSON types."""
        return {"source": self.source, "words": len(self), "fingerprint": self.fingerprint}


def from_pairs(
    pairs: Iterable[tuple[str, str]], source: str = "pairs", *, without: Iterable[tuple[str, str]] = ()
) -> Neighbours:
    """Substitutes from pairs `(word, substitute)`, directed: the more often a pair is given the earlier it comes.

    Args:
        pairs: in any case; those of which a part is more than one word of `Text` are left out.
        source: for records.
        without: pairs that are none, such as antonyms, in either order.
    """
    banned = {frozenset((a.lower(), b.lower())) for a, b in without}
    counts = Counter((a.lower(), b.lower()) for a, b in pairs)
    single = {word for word in chain.from_iterable(counts) if _single(word)}
    sets: dict[str, list[str]] = {}
    for (word, other), _ in counts.most_common():  # equally frequent ones in the order they came in
        if word != other and frozenset((word, other)) not in banned and {word, other} <= single:
            sets.setdefault(word, []).append(other)
    return Neighbours(source, {word: tuple(found) for word, found in sets.items()})


def ppdb(root: str | Path | None = None) -> Neighbours:
    """Synonyms of the Paraphrase Database without antonyms, as gathered for counter-fitting (Mrksic et al., "Counter-
    fitting word vectors to linguistic constraints", 2016): `text_synonyms` below the data root.

    A pair counts as often as it is listed. Some are false friends (`like`, `fond`): such is the source.

    Raises:
        DataError: where the files are not there.
    """
    folder = folder_of("ppdb", SYNONYMS, root)
    antonyms = [pair for name in ("ppdb_antonyms.txt", "wordnet_antonyms.txt") for pair in _pairs(folder / name)]
    return from_pairs(_pairs(folder / "ppdb_synonyms.txt"), "ppdb", without=antonyms)


def from_table(path: str | Path) -> Neighbours:
    """Your own substitutes: a file of UTF-8, on each line a word and what may stand for it, the best first, white space
    or tabs between. Directed as written; a word may have several lines; lines that begin with # are comments.

    Raises:
        DataError: where the file cannot be read, or a line has a single word or a part that is no word of `Text`; the
            message names the line.
    """
    path, sets = Path(path), dict[str, list[str]]()
    for number, row in enumerate(words_of(path), 1):
        if not row or row[0].startswith("#"):
            continue
        wrong = next((each for each in row if not _single(each.lower())), None)
        if wrong is not None or len(row) < 2:
            got = f"{wrong!r}" if wrong is not None else f"only {row[0]!r}"
            raise DataError(f"{path}, line {number}: must be a word and its substitutes, single words. Got {got}.")
        word, *others = [each.lower() for each in row]
        known = sets.setdefault(word, [])
        known += [each for each in dict.fromkeys(others) if each != word and each not in known]
    return Neighbours(path.name, {word: tuple(found) for word, found in sets.items()})


def wordnet(folder: str | Path | None = None) -> Neighbours:
    """Words that share a synset in WordNet 3's database files, those of the most frequent senses first; lemmas only: it
    has no `films`. `folder` as in `sparring.domains.text.wordnet.synonyms`, whose errors it raises."""
    sets = {word: tuple(filter(_single, found)) for word, found in synonyms(folder).items() if _single(word)}
    return Neighbours("wordnet", {word: found for word, found in sets.items() if found})


def nearest(weight: Tensor, tokenizer: WordTokenizer, *, most: int = 8, least: float = 0.5) -> Neighbours:
    """Words whose embeddings point the same way.

    Args:
        weight: embeddings `[V, D]` of the tokenizer's ids, from a model or from elsewhere.
        tokenizer: whose words they are.
        most: substitutes of a word, at most.
        least: their cosine, at least, in [-1, 1].

    Raises:
        ValueError: where there is not one embedding for each id.
    """
    if len(weight) != tokenizer.vocab_size:
        raise ValueError(f"'weight' must have a row for each of {tokenizer.vocab_size} ids. Got {len(weight)}.")
    unit = F.normalize(weight.detach()[OWN:].double(), dim=1)
    sets = {}
    for start in range(0, len(unit), 1024):
        cosine = unit[start : start + 1024] @ unit.T
        cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = -2.0
        value, index = cosine.topk(min(most, len(unit)), dim=1)
        for k, (values, row) in enumerate(zip(value.tolist(), index.tolist(), strict=True), start):
            found = tuple(tokenizer.words[j] for v, j in zip(values, row, strict=True) if v >= least)
            if found:
                sets[tokenizer.words[k]] = found
    return Neighbours("nearest", sets)


def _single(word: str) -> bool:
    """Whether it is one lower-case word of `Text`: in its place, a site stays a site."""
    return word == word.lower() and Text.of(word).pieces == ("", word, "")


def _pairs(path: Path) -> Sequence[tuple[str, str]]:
    return [(row[0], row[1]) for row in words_of(path) if len(row) == 2]

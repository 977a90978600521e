"""Structured prompts: an instruction, the data it is about, and the answer, kept apart by tokens that no text can give.

    <|instruction|> instruction <|data|> data <|answer|> answer <|end|>

The delimiters are ids beyond the tokenizer's: whatever stands in the data, a string is never encoded to one of them. So
that people, logs and other models are not fooled by their written form either, `cleaned` takes it, and what looks like
it, out of data. After Chen et al., "StruQ: defending against prompt injection with structured queries", 2024.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.domains.text.folding import LOOK_ALIKES as LETTERS
from sparring.domains.text.tokens import PAD, UNK, ByteTokenizer

DELIMITERS = ("<|instruction|>", "<|data|>", "<|answer|>", "<|end|>")
"""As they are written, in the order of their ids."""

STRANGE_BRACKETS = "‹〈〈⟨＜﹤˂𐌂❮❬"
LOOK_ALIKES = str.maketrans({
    **dict.fromkeys(STRANGE_BRACKETS, "<"),
    **dict.fromkeys("›〉⟩＞﹥˃❯❭", ">"),
    **dict.fromkeys("∣│┃｜¦ǀ❘⏐丨ߊ⎮", "|"),
    **{strange: latin for alike, plain in LETTERS for strange, latin in zip(alike, plain, strict=True)},
})  # fmt: skip
"""Characters that are taken for those that delimiters are made of; the rest Unicode's compatibility forms fold."""
_WRITTEN = re.compile("|".join(re.escape(each) for each in DELIMITERS))


class PromptError(ValueError):
    """A prompt that cannot be made: an empty instruction, or more tokens than the model takes."""


@dataclass(frozen=True)
class Query:
    """What a user wants, and the data that it is wanted of.

    Args:
        instruction: the user's own words, trusted.
        data: from elsewhere, not trusted; "" where there is none.
    """

    instruction: str
    data: str = ""


@dataclass(frozen=True, eq=False)
class Chat:
    """Prompts as ids, with four ids of its own beyond the tokenizer's.

    Args:
        tokenizer: of the parts. Each part is written with a space in front, so that a word has the same tokens wherever
            it stands.
    """

    tokenizer: ByteTokenizer

    @property
    def instruction(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def data(self) -> int:
        return self.tokenizer.vocab_size + 1

    @property
    def answer(self) -> int:
        return self.tokenizer.vocab_size + 2

    @property
    def end(self) -> int:
        return self.tokenizer.vocab_size + 3

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""
        return self.tokenizer.vocab_size + len(DELIMITERS)

    def ids(self, string: str) -> list[int]:
        """The tokens of a text; none for the empty one."""
        return self.many([string])[0]

    def many(self, strings: Sequence[str]) -> list[list[int]]:
        """Those of several texts, at once."""
        if not strings:
            return []
        ids = self.tokenizer.encode([" " + each for each in strings], 1_000_000)
        counts = (ids != PAD).sum(1).tolist()
        return [row[:n] if each else [] for each, row, n in zip(strings, ids.tolist(), counts, strict=True)]

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens, delimiters as they are written."""
        said, plain = "", list[int]()
        for k in (*ids, self.instruction):
            if k < self.instruction:
                plain.append(k)
                continue
            said, plain = said + self.tokenizer.decode(plain), []
            said += DELIMITERS[k - self.instruction]
        return said.removesuffix(DELIMITERS[0]).removeprefix(" ")

    def prompt(self, query: Query) -> list[int]:
        """The ids up to where the answer begins; the data cleaned. Raises PromptError for an empty instruction."""
        return self.prompts([query])[0]

    def prompts(self, queries: Sequence[Query]) -> list[list[int]]:
        """Those of several queries."""
        if any(not each.instruction.strip() for each in queries):
            raise PromptError("The 'instruction' parameter must not be empty.")
        asked, given = self.many([q.instruction for q in queries]), self.many([cleaned(q.data) for q in queries])
        return [
            [self.instruction, *instruction, *([self.data, *data] if data else ()), self.answer]
            for instruction, data in zip(asked, given, strict=True)
        ]

    def wholes(self, queries: Sequence[Query], answers: Sequence[str]) -> list[list[int]]:
        """Prompts, each with its answer and its end."""
        said = self.many(answers)
        return [[*prompt, *answer, self.end] for prompt, answer in zip(self.prompts(queries), said, strict=True)]

    def plain(self) -> Tensor:
        """Which ids text can give, bool `[vocab_size]`: not padding, the unknown, nor delimiters."""
        allowed = torch.zeros(self.vocab_size, dtype=torch.bool)
        allowed[UNK + 1 : self.instruction] = True
        return allowed


def answers(ids: Tensor, vocabulary: int) -> Tensor:
    """Which tokens are of an answer, its end included, bool `[..., L]`: those after the mark of one. A function of the
    ids alone, because no text can hold a mark.

    Args:
        ids: int64 `[..., L]`.
        vocabulary: `Chat.vocab_size`.
    """
    mark = ids == vocabulary - len(DELIMITERS) + 2
    return (mark.cumsum(-1) > 0) & ~mark & (ids != PAD)


def cleaned(data: str) -> str:
    """The data without written delimiters and what looks like them: other brackets and bars, other widths and cases,
    spaces and invisible characters in between. Again and again, until removing one makes no other.

    `cleaned(cleaned(data)) == cleaned(data)`, and data without any comes back as it is.
    """
    while any(character in data for character in "<" + STRANGE_BRACKETS):
        folded, places = _folded(data)
        found = _WRITTEN.search(folded)
        if found is None:
            break
        data = data[: places[found.start()]] + data[places[found.end() - 1] + 1 :]
    return data


def _folded(string: str) -> tuple[str, list[int]]:
    """What a string looks like, without white space and invisible characters, and which character each is of."""
    shape, places = [], []
    for i, character in enumerate(string):
        for each in unicodedata.normalize("NFKD", character).casefold():
            if not each.isspace() and unicodedata.category(each) not in ("Cf", "Cc", "Mn", "Me"):
                shape.append(each.translate(LOOK_ALIKES))
                places.append(i)
    return "".join(shape), places

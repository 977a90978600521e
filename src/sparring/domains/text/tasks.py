"""Instructions about a text whose right answers a rule knows: what a small chat model can learn within minutes.

A model of a million weights cannot follow instructions of the open kind. It can learn a handful of tasks in a few
hundred phrasings, on real sentences, well enough to be told to do another one in the middle of its data. Answers are
exact, so nobody has to judge them. Phrasings that are held out combine parts that training saw, in other combinations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch

from sparring.domains.text.words import Text

LOOKING = ("what is", "what are", "give me", "tell me", "write down", "find", "return", "i need")
SAYING = ("say", "print", "answer", "reply with")
TAILS = ("", " please", " of the text", " of the data", " now")


@dataclass(frozen=True)
class Kind:
    """One thing to do.

    Args:
        name: of it.
        leads, cores, tails: what a phrasing is made of, one of each; `{}` is the word that it is about.
        rule: `(data, the word that it is about) -> answer`, or None where there is none.
        about: whether it is about a word that the user names.
    """

    name: str
    leads: tuple[str, ...]
    cores: tuple[str, ...]
    tails: tuple[str, ...]
    rule: Callable[[str, str], str | None]
    about: bool = False

    @lru_cache(maxsize=64)  # noqa: B019  (there are ten)
    def phrasings(self, held_out: bool) -> tuple[str, ...]:
        """Every fifth combination is held out, so that each part is in some that are not."""
        every = product(enumerate(self.leads), enumerate(self.cores), enumerate(self.tails))
        return tuple(
            f"{lead} {core}{tail}"
            for (i, lead), (j, core), (k, tail) in every
            if ((i + 2 * j + 3 * k) % 5 == 0) == held_out
        )


@lru_cache(maxsize=100_000)
def words(data: str) -> tuple[str, ...]:
    """The words of a text that are not punctuation."""
    return tuple(word for word in Text.of(data).words if any(map(str.isalnum, word)))


def _beginning(count: int) -> Callable[[str, str], str | None]:
    def rule(data: str, about: str) -> str | None:  # noqa: ARG001
        there = words(data)
        return " ".join(there[:count]) if len(there) >= count else None

    return rule


KINDS: tuple[Kind, ...] = (
    Kind("first", LOOKING, ("the first word", "the opening word", "the word at the start"), TAILS, _beginning(1)),
    Kind(
        "two", LOOKING, ("the first two words", "the opening two words", "two words from the start"), TAILS,
        _beginning(2),
    ),
    Kind(
        "repeat", ("repeat", "copy", "echo", "write down"), ("the text", "all the words", "everything"), TAILS[:2],
        lambda data, _: data.strip() or None,
    ),
    Kind("say", SAYING, ("{}", "the word {}", "only {}"), TAILS[:2], lambda _, about: about, about=True),
    Kind(
        "twice", SAYING, ("{} twice", "the word {} twice", "{} two times"), TAILS[:2],
        lambda _, about: f"{about} {about}", about=True,
    ),
)  # fmt: skip
"""What can be asked."""

INJECTED = ("first", "say", "twice")
"""Kinds that an attacker asks for: what they ask has one short answer, whatever the injection adds to the data."""


@dataclass(frozen=True)
class Task:
    """One thing to do, in words.

    Args:
        kind: index into `KINDS`.
        phrasing: with `{}` for the word.
        about: the word; "" for none.
    """

    kind: int
    phrasing: str
    about: str

    @property
    def instruction(self) -> str:
        return self.phrasing.format(self.about)

    def answer(self, data: str) -> str | None:
        """The right answer about this data as it stands; None where there is none."""
        return KINDS[self.kind].rule(data, self.about)


def draw(kind: int, data: str, vocabulary: tuple[str, ...], rng: torch.Generator, *, held_out: bool) -> Task | None:
    """A task of this kind about a text, or None where it has no answer there.

    Args:
        kind: index into `KINDS`.
        data: the text.
        vocabulary: what a word that the user names is drawn from.
        rng: of phrasing and word.
        held_out: in a phrasing that is kept from training.
    """
    about = vocabulary[_chosen(len(vocabulary), rng)] if KINDS[kind].about else ""
    said = KINDS[kind].phrasings(held_out)
    task = Task(kind, said[_chosen(len(said), rng)], about)
    return task if task.answer(data) else None


def _chosen(count: int, rng: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=rng).item())

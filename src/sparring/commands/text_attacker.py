"""The attacks that `sparring attack text` has to offer, and what they need beside the model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sparring.attacks.greedy import greedy
from sparring.attacks.hotflip import hotflip
from sparring.attacks.random_edits import random_edits
from sparring.commands.text_battery import Budget, challenges
from sparring.commands.text_material import Where, first, substitutes
from sparring.domains.text.artefact import Classifier
from sparring.domains.text.files import DataError
from sparring.domains.text.neighbours import Neighbours
from sparring.domains.text.threats import Substitution
from sparring.domains.text.tokens import WordTokenizer
from sparring.domains.text.words import Text
from sparring.engine import record
from sparring.evaluation.discrete import DiscreteChallenge

USUAL = ("greedy-deletion", "greedy-saliency", "characters", "append")
"""What is tried where nobody says: two searches for substitutes, and two tricks that training on substitutes does not
see."""

NAMES = (*USUAL, "greedy-gradient", "hotflip", "genetic", "random")
"""All there are."""

EVERYDAY = (
    "the", "of", "and", "to", "in", "is", "that", "it", "for", "was", "on", "are", "as", "with", "they", "be", "at",
    "one", "have", "this", "from", "or", "had", "by", "but", "some", "what", "there", "we", "can", "out", "other",
    "were", "all", "your",
)  # fmt: skip
"""Words to append to texts of which no training texts tell what is harmless: among the most frequent in English."""


@dataclass(frozen=True)
class Arsenal:
    """The chosen attacks, and notes on where their words are from."""

    challenges: list[DiscreteChallenge[Text]]
    notes: list[str]


def arsenal(
    classifier: Classifier,
    folder: Path | None,
    names: Sequence[str],
    budget: Budget,
    *,
    neighbours: str | None,
    queries: int | None,
    root: Path | None,
) -> Arsenal:
    """The attacks of these names.

    Args:
        classifier: what is attacked.
        folder: its run folder, where it has one: substitutes and harmless words are then those of its evaluation.
        names: of `NAMES`.
        budget: what an attacker may do.
        neighbours: substitutes by name or path; None for those of the run, or ppdb.
        queries: the most texts asked about for each text; None for no bound.
        root: folder of named data sets.

    Raises:
        ValueError: for an unknown name.
        DataError: where substitutes are asked for and not found.
    """
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise ValueError(f"--attacks must be some of {', '.join(NAMES)}. Got {', '.join(unknown) or 'none'}.")
    notes: list[str] = []
    facts = record.read(folder) if folder is not None and (folder / record.FILE).exists() else None
    words = Neighbours("none", {})
    if set(names) - {"characters", "append"}:
        words = _substitutes(classifier, facts, neighbours, root, budget.most)
        notes.append(f"Substitutes are from {words.source}, for {len(words):,} words of the model’s vocabulary.")
    pool: tuple[str, ...] = ()
    if "append" in names:
        pool, note = _pool(classifier, facts, root)
        notes.append(note)
    exchanged = Substitution(words, budget.words, budget.most)
    offered = challenges(words, pool or ("the",), replace(budget, genetic=True))
    more: list[tuple[str, Any, dict[str, Any]]] = [
        ("greedy-gradient", partial(greedy, ranking="gradient"), {"ranking": "gradient"}),
        ("hotflip", hotflip, {"steps": 10, "beam": 3, "tries": 5}),
        ("random", random_edits, {"queries": 100}),
    ]
    offered += [
        DiscreteChallenge(name, attack, exchanged, {**told, **exchanged.describe()}) for name, attack, told in more
    ]
    chosen = [each for name in names for each in offered if each.name == name]
    if queries is not None:
        chosen = [
            replace(
                each, attack=partial(each.attack, queries=queries), parameters={**each.parameters, "queries": queries}
            )
            for each in chosen
        ]
    return Arsenal(chosen, notes)


def _substitutes(
    classifier: Classifier, facts: record.Record | None, named: str | None, root: Path | None, most: int
) -> Neighbours:
    told: dict[str, Any] = (facts or {}).get("text", {})
    source = named or told.get("neighbours") or "ppdb"
    place = root or (Path(facts["data_root"]) if facts and facts.get("data_root") else None)
    try:
        found = substitutes(Where(neighbours=source, data_root=place))
    except DataError as error:
        raise DataError(f"{error}\nGive --neighbours a table of your own, or --attacks characters append.") from error
    if isinstance(classifier.tokenizer, WordTokenizer):
        found = found.within(classifier.tokenizer)
    return first(found, most)


def _pool(classifier: Classifier, facts: record.Record | None, root: Path | None) -> tuple[tuple[str, ...], str]:
    """Harmless words, and where they are from."""
    if facts is not None and "text" in facts:
        from sparring.commands.text_evaluate import material_of  # loads the engine

        try:
            found = material_of(facts, classifier, root).harmless("test")
            return found, f"The {len(found)} words to append are those that say least in the training texts."
        except (DataError, ValueError) as error:
            why = f"the training texts are not at hand ({str(error).splitlines()[0]})"
    else:
        why = "the model comes without its training texts"
    known = classifier.tokenizer
    usable = tuple(word for word in EVERYDAY if not isinstance(known, WordTokenizer) or known.knows(word)) or EVERYDAY
    return usable, f"The {len(usable)} words to append are everyday English ones: {why}."

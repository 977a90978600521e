"""The evaluation of one text classifier: under every attack and the worst of all, what is proved, and the checks."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.commands.text_battery import Budget, attacked, challenges, embedded, gain_of
from sparring.commands.text_material import HARMFUL, Material
from sparring.core.traced import UnsupportedError
from sparring.domains.text import pools
from sparring.domains.text.artefact import Classifier
from sparring.domains.text.data import Texts
from sparring.domains.text.threats import Substitution
from sparring.domains.text.words import Text
from sparring.evaluation.discrete import (
    Battery,
    DiscreteChallenge,
    battery,
    caches_agree,
    eval_mode,
    never_falls,
    verified,
    watched,
)
from sparring.evaluation.interval import accuracy, wilson
from sparring.evaluation.sanity import SLACK, Check, check
from sparring.systems.moderation import identity_terms
from sparring.systems.text_at import boxes

LARGE = 8.0
"""Mean norms that a token may move in the check that a model without any meaning left is broken."""
FEW = 20
"""Texts of the check that a cache changes nothing."""
SHADY = 100
"""Words that mark harmful texts: a benign text that holds one is a look-alike."""


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        results: `clean`, every attack by name, `worst` over them, and `certified` where there are bounds:
            `{"accuracy", "low", "high", "n"}` and what an attack adds.
        embedding: PGD on embeddings, which is no attack on a text and not in the worst case, likewise.
        checks: see `sparring.evaluation.discrete`.
        outcomes: which texts stand, bool `[N]` by name.
        found: the battery.
        false_positives: of a classifier with a threshold: shares of benign texts that are flagged.
    """

    results: dict[str, dict[str, Any]]
    embedding: dict[str, Any]
    checks: list[Check]
    outcomes: dict[str, Tensor]
    found: Battery[Text]
    false_positives: dict[str, dict[str, Any]] | None


def measured(classifier: Classifier, made: Material, texts: Texts, rows: Tensor, budget: Budget, seed: int) -> Measured:
    """Attack these rows of the texts; of a classifier with a threshold they are harmful ones.

    Args:
        classifier: what is measured.
        made: whose substitutes and harmless words the attacks use.
        texts: the test split.
        rows: which of it to attack.
        budget: what an attacker may do.
        seed: of everything random.
    """
    strings, y = [texts.strings[i] for i in rows.tolist()], texts.y[rows]
    tried = challenges(made.neighbours, made.harmless("test"), budget)
    with watched(classifier.model) as modes:
        found = attacked(classifier, strings, y, tried, seed)
    start = time.perf_counter()
    standing = found.clean & embedded(classifier, strings, y, budget.eps, seed)
    pgd_seconds = time.perf_counter() - start
    outcomes = {"clean": found.clean, **{name: each.right for name, each in found.outcomes.items()}}
    outcomes |= {"worst": found.worst, "embedding-pgd": standing}
    results = {"clean": accuracy(found.clean)}
    for each in tried:
        results[each.name] = _attack(found, each, strings)
    results["worst"] = {**accuracy(found.worst), "success": _success(found.clean, found.worst)}
    beside = {
        **accuracy(standing), "success": _success(found.clean, standing), "attempted": int(found.clean.sum()),
        "parameters": {"steps": 20, "restarts": 2, "norm": "embedding", "over": "token", "eps": budget.eps},
        "seconds": pgd_seconds,
    }  # fmt: skip
    checks = [verified(found), never_falls(found), eval_mode(modes), _large(classifier, strings, y, found.clean, seed)]
    checks.append(_cache(classifier, strings[:FEW], y[:FEW], tried[0], seed))
    if (proved := certified(classifier, made, strings, y, budget)) is not None:
        outcomes["certified"] = proved
        results["certified"] = accuracy(proved)
        checks.append(_below(proved, found, tried))
    flagged = None if classifier.threshold is None else false_positives(classifier, made, texts)
    return Measured(results, beside, checks, outcomes, found, flagged)


def _attack(found: Battery[Text], tried: DiscreteChallenge[Text], strings: Sequence[str]) -> dict[str, Any]:
    one = found.outcomes[tried.name]
    won = found.clean & ~one.right
    words = torch.tensor([max(1, len(Text.of(each))) for each in strings])
    attempted = int(found.clean.sum())
    return {
        **accuracy(one.right),
        "success": _success(found.clean, one.right),
        "parameters": tried.parameters,
        "attempted": attempted,
        "refused": int(one.refused.sum()),
        "queries": one.queries[found.clean].double().mean().item() if attempted else 0.0,
        "changed": (one.changes / words)[won].double().mean().item() if bool(won.any()) else None,
        "seconds": one.seconds,
    }


def _success(clean: Tensor, right: Tensor) -> dict[str, Any] | None:
    """The share of the originally right that falls, with its interval; None where none is right."""
    n, hits = int(clean.sum()), int((clean & ~right).sum())
    if n == 0:
        return None
    low, high = wilson(hits, n)
    return {"rate": hits / n, "low": low, "high": high, "n": n}


def certified(
    classifier: Classifier, made: Material, strings: Sequence[str], y: Tensor, budget: Budget
) -> Tensor | None:
    """Which texts no substitution can take from their class, however many words it exchanges, bool `[N]`; None for a
    model without bounds, or with a threshold, or a filter, for neither of which the boxes speak."""
    if classifier.threshold is not None or classifier.folding or made.table() is None:
        return None
    parts = []
    try:
        for rows in torch.arange(len(y)).split(256):
            some = [Text.of(strings[i]) for i in rows.tolist()]
            candidates = choices(classifier, Substitution(made.neighbours, 1.0, budget.most), some)
            parts.append(boxes.certified(classifier.model, candidates, y[rows]))
    except UnsupportedError:
        return None
    return torch.cat(parts)


def choices(classifier: Classifier, threat: Substitution, texts: Sequence[Text]) -> Tensor:
    """The ids `[N, L, T]` of the word itself and everything that the threat model lets stand at each position: asked of
    the threat model, so that what is proved is about it and not about the table that training used."""
    alone = classifier.tokenizer.encode([str(text) for text in texts], classifier.length)
    sets: list[list[list[int]]] = []
    for text, ids in zip(texts, alone.tolist(), strict=True):
        here = [[own] for own in ids]
        for site in threat.sites(text):
            if site < len(ids):
                edits = threat.edits(text, text, site)
                words = [edit.words[site] for edit in edits]
                here[site] += [classifier.tokenizer.id(word) for word in words]  # type: ignore[union-attr]
        sets.append(here)
    width = max(len(each) for here in sets for each in here)
    padded = [[each + each[:1] * (width - len(each)) for each in here] for here in sets]
    return torch.tensor(padded, dtype=torch.long)


def false_positives(classifier: Classifier, made: Material, texts: Texts) -> dict[str, dict[str, Any]]:
    """Shares of benign test texts that are flagged: of all, of those with words for groups of people, and of
    look-alikes, which hold a word that marks harmful ones; each `{"accuracy", "low", "high", "n"}` of being flagged."""
    assert tuple(classifier.classes) == HARMFUL
    assert classifier.threshold is not None
    train = made.data.train
    strings = [string for string, label in zip(texts.strings, texts.y.tolist(), strict=True) if label == 0]
    flagged = classifier.probabilities(strings)[:, 1] > classifier.threshold
    held = [{word.lower() for word in Text.of(string).words} for string in strings]
    terms, shady = set(identity_terms()), set(pools.marking(train.strings, train.y, 1, SHADY))
    groups = {
        "all": torch.ones(len(strings), dtype=torch.bool),
        "identity terms": torch.tensor([bool(words & terms) for words in held], dtype=torch.bool),
        "look-alikes": torch.tensor([bool(words & shady) for words in held], dtype=torch.bool),
    }
    return {name: accuracy(flagged[rows]) for name, rows in groups.items() if bool(rows.any())}


def _large(classifier: Classifier, strings: Sequence[str], y: Tensor, clean: Tensor, seed: int) -> Check:
    right = clean & embedded(classifier, strings, y, LARGE, seed)
    share = int(right.sum()) / max(1, int(clean.sum()))
    return check(
        "large-eps",
        share <= SLACK,
        f"{share:.1%} of the right texts stand when every token may move by {LARGE:g} mean norms",
        "With nothing left of the words every prediction can be changed; an attack that cannot is broken.",
    )


def _cache(
    classifier: Classifier, strings: Sequence[str], y: Tensor, tried: DiscreteChallenge[Text], seed: int
) -> Check:
    texts = [Text.of(each) for each in strings]
    runs = [battery(gain_of(classifier, y, **options), texts, [tried], seed=seed) for options in ({}, {"cache": 0})]
    return caches_agree(*(each.outcomes[tried.name] for each in runs))


def _below(proved: Tensor, found: Battery[Text], tried: Sequence[DiscreteChallenge[Text]]) -> Check:
    """Nothing that is proved is broken by substitution, and all of it is right when clean."""
    within = [found.outcomes[each.name].right for each in tried if isinstance(each.threat, Substitution)]
    broken = int((proved & ~torch.stack([found.clean, *within]).all(0)).sum())
    return check(
        "certified-below-empirical",
        broken == 0,
        f"{broken} of {int(proved.sum())} certified texts are broken by substitution",
        "A certificate that an attack contradicts is a defect of the bounds, or of what they were computed for.",
    )


def as_record(found: Measured, budget: Budget) -> dict[str, Any]:
    """The evaluation as a record has it."""
    answer: dict[str, Any] = {
        "domain": "text",
        "n": len(found.outcomes["clean"]),
        "suite": {"name": "text", "sequential": False, "bound": "Upper bounds: a stronger search may find more."},
        "threat": {"norm": "words", "eps": budget.words},
        "budget": asdict(budget),
        "results": found.results,
        "embedding": found.embedding,
        "checks": found.checks,
    }
    if found.false_positives is not None:
        answer["false_positives"] = found.false_positives
    return answer

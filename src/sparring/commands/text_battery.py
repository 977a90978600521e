"""What a text classifier is put through: attacks on the text itself, in and outside of what it trained against."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparring.attacks.genetic import genetic
from sparring.attacks.greedy import greedy
from sparring.core.gain import ClassifierGain
from sparring.core.gradient import frozen
from sparring.core.payoff import margin
from sparring.core.pgd import pgd
from sparring.core.seeds import derive
from sparring.core.standing import DeadStartError
from sparring.domains.text.artefact import Classifier
from sparring.domains.text.ball import TokenBall
from sparring.domains.text.embedded import Lookup, TextModel, mean_norm
from sparring.domains.text.gain import TextGain
from sparring.domains.text.neighbours import Neighbours
from sparring.domains.text.threats import Append, Characters, Substitution
from sparring.domains.text.words import Text
from sparring.evaluation.discrete import Battery, DiscreteChallenge, battery

STEPS, RESTARTS = 20, 2
"""Of PGD on embeddings."""


@dataclass(frozen=True)
class Budget:
    """How much an attacker may do to a text.

    Args:
        words: share of its words that may be exchanged for substitutes, in (0, 1].
        most: substitutes of a word, at most.
        edits: character edits in a word, at most.
        characters: share of its words that may be misspelt, in (0, 1].
        append: harmless words behind it, at most.
        eps: radius of the token balls of PGD on embeddings, in mean norms.
        genetic: whether the population search, the dearest, is among the attacks.
    """

    words: float = 0.2
    most: int = 8
    edits: int = 1
    characters: float = 0.2
    append: int = 9
    eps: float = 0.1
    genetic: bool = True


class Alarm(nn.Module):
    """A classifier of two classes whose larger logit is what a threshold on the probability of the second says."""

    def __init__(self, model: nn.Module, threshold: float) -> None:
        super().__init__()
        self.model = model
        odds = torch.tensor(threshold, dtype=torch.float64).clamp(1e-12, 1 - 1e-12).logit()
        self.register_buffer("shift", torch.tensor([0.0, odds.item()]))

    @property
    def embedding(self) -> Lookup:
        return cast(TextModel, self.model).embedding

    def embed(self, ids: Tensor) -> Tensor:
        return cast(TextModel, self.model).embed(ids)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x) - self.shift
        return logits


def subject(classifier: Classifier) -> nn.Module:
    """What decides: the model, at its threshold where it has one."""
    return classifier.model if classifier.threshold is None else Alarm(classifier.model, classifier.threshold)


def gain_of(classifier: Classifier, y: Tensor, **options: Any) -> TextGain:
    """What an attack on the decision climbs: the margin, of the model behind everything that is in front of it."""
    return TextGain(subject(classifier), classifier.reader, y, margin, classifier.length, **options)


def challenges(neighbours: Neighbours, pool: Sequence[str], budget: Budget) -> list[DiscreteChallenge[Text]]:
    """The attacks, each with its threat model: substitution by three searches, misspelling, and harmless words."""
    exchanged = Substitution(neighbours, budget.words, budget.most)
    written = Characters(budget.edits, budget.characters)
    longer = Append(tuple(pool), budget.append)
    searches: list[tuple[str, Any, Any, dict[str, Any]]] = [
        ("greedy-deletion", partial(greedy, ranking="deletion"), exchanged, {"ranking": "deletion"}),
        ("greedy-saliency", partial(greedy, ranking="saliency"), exchanged, {"ranking": "saliency"}),
        ("characters", partial(greedy, ranking="deletion"), written, {"ranking": "deletion"}),
        ("append", partial(greedy, ranking="gain"), longer, {"ranking": "gain"}),
    ]
    if budget.genetic:
        small = partial(genetic, population=10, generations=8)
        searches.insert(2, ("genetic", small, exchanged, {"population": 10, "generations": 8}))
    return [
        DiscreteChallenge(name, attack, threat, {**parameters, **threat.describe()})
        for name, attack, threat, parameters in searches
    ]


def attacked(
    classifier: Classifier, strings: Sequence[str], y: Tensor, made: list[DiscreteChallenge[Text]], seed: int
) -> Battery[Text]:
    """The battery on these texts, every answer verified."""
    return battery(gain_of(classifier, y), [Text.of(each) for each in strings], made, seed=seed)


def embedded(classifier: Classifier, strings: Sequence[str], y: Tensor, eps: float, seed: int) -> Tensor:
    """Which texts stand under PGD on their embeddings, in balls of radius eps around the tokens, `[N]` bool."""
    right = torch.zeros(len(y), dtype=torch.bool)
    with frozen(subject(classifier)) as model:
        ball = TokenBall(eps, mean_norm(cast(TextModel, model)))
        for k, rows in enumerate(torch.arange(len(y)).split(256)):
            ids = classifier.reader.encode([strings[i] for i in rows.tolist()], classifier.length)
            with torch.no_grad():
                clean = model(ids).argmax(1) == y[rows]
            if not clean.any():
                continue
            x, rows = cast(TextModel, model).embed(ids[clean]), rows[clean]
            gain = ClassifierGain(model, y[rows], margin)
            rng = torch.Generator().manual_seed(derive(seed, "embeddings", k))
            try:
                z = pgd(gain, x, ball, steps=STEPS, restarts=RESTARTS, early_stop=True, rng=rng)
            except DeadStartError:  # a constant model: nothing to follow, nothing found, and the check says so
                z = x
            assert bool(ball.contains(z, x).all())
            right[rows] = ~gain.judge(z)[1]
    return right

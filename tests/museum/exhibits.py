"""The exhibits, each trained once in a session and only if a test asks for it: small networks on 8x8 digits."""

from collections.abc import Callable
from functools import cache, cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from defences import (
    AntiAdversary,
    Dropping,
    First,
    Guarded,
    HalfDetached,
    Probabilities,
    RandomResize,
    Saturating,
    Scaled,
    Vote,
    Winners,
    bit_depth,
    jpeg,
    thermometer,
)
from torch import Tensor, nn

from sparring.attacks.divergence import KLGain
from sparring.core.gain import ClassifierGain
from sparring.core.gradient import frozen
from sparring.core.payoff import cross_entropy, kl
from sparring.core.pgd import pgd
from sparring.core.threat import Linf, Threat
from sparring.domains.image import load
from sparring.evaluation.evaluate import Evaluation, evaluate

LINF = Linf(0.15)
COUNT = 100
"""Test images that an exhibit is evaluated on."""

REFUSAL = 10
"""The output by which the detector refuses to answer."""

TEMPERATURE = 100.0

Objective = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""`(model, x, y, rows) -> [B]`; rows are the places of these examples in the training data."""


def convolutional(channels: int = 1, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """8x8 images to ten logits: two convolutions and two linear layers."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 8, 3, stride=2, padding=1), activation()),
        *(nn.Conv2d(8, 16, 3, padding=1), activation(), nn.Flatten()),
        *(nn.Linear(256, 64), activation(), nn.Linear(64, 10)),
    )


def dense(width: int = 128, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """8x8 images to ten logits: three linear layers."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, width), activation()),
        *(nn.Linear(width, width), activation(), nn.Linear(width, 10)),
    )


def ordinary(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    return cross_entropy(model(x), y)


def pgd_at(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor, *, rng: torch.Generator) -> Tensor:
    """Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018."""
    with frozen(model):
        z = pgd(ClassifierGain(model, y, cross_entropy), x, LINF, steps=5, rng=rng)
    return cross_entropy(model(z), y)


def trades(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor, *, rng: torch.Generator) -> Tensor:
    """Zhang et al., "Theoretically principled trade-off between robustness and accuracy", 2019, with beta = 6."""
    with frozen(model):
        z = pgd(KLGain.at(model, x, y), x, LINF, steps=5, rng=rng)
    clean = model(x)
    return cross_entropy(clean, y) + 6 * kl(model(z), clean)


class Museum:
    """Data, networks and evaluations, each made when it is first asked for.

    Attributes:
        x, y: training data.
        test: the first `COUNT` test images and their labels.
        plain: `plain(seed)`, a convolutional network that hides nothing.
        honest: `honest("standard" or "pgd-at" or "trades", seed)`, convolutional from an even seed, dense from an odd.
        evaluation: `evaluation(model, threat, **rest)`, what `evaluate` says of it on the test images.
    """

    def __init__(self) -> None:
        data = load("digits")
        self.x, self.y = data.train.take(torch.arange(len(data.train)))
        self.test = data.test.take(torch.arange(COUNT))
        self.plain = cache(partial(self.fit, convolutional))
        self.honest = cache(self._train_honest)
        self.evaluation = cache(self._evaluate)

    def fit(
        self,
        make: Callable[[], nn.Module],
        seed: int = 0,
        *,
        epochs: int = 12,
        lr: float = 3e-3,
        objective: Objective = ordinary,
        before: Callable[[nn.Module, int], None] | None = None,
    ) -> nn.Module:
        """Adam on batches of 128; `before` is called with the model and the number of each epoch."""
        torch.manual_seed(seed)
        model, rng = make(), torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        for epoch in range(epochs):
            if before is not None:
                before(model, epoch)
            for rows in torch.randperm(len(self.y), generator=rng).split(128):
                optimizer.zero_grad()
                objective(model, self.x[rows], self.y[rows], rows).mean().backward()
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return model.eval()

    @cached_property
    def bits(self) -> nn.Module:
        return First(bit_depth, self.plain())

    @cached_property
    def jpeg(self) -> nn.Module:
        return First(jpeg, self.plain())

    @cached_property
    def thermometer(self) -> First:
        return self.fit(lambda: First(thermometer, convolutional(8)))

    @cached_property
    def scaled(self) -> nn.Module:
        return Scaled(self.plain())

    @cached_property
    def probabilities(self) -> nn.Module:
        return Probabilities(self.plain())

    @cached_property
    def saturating(self) -> nn.Module:
        def steepen(model: nn.Module, epoch: int) -> None:
            for module in model.modules():
                if isinstance(module, Saturating):
                    module.slope = 1.3**epoch

        make = partial(convolutional, activation=Saturating)
        return self.fit(make, epochs=20, lr=5e-3, before=steepen)

    @cached_property
    def random(self) -> nn.Module:
        return self.fit(lambda: RandomResize(convolutional()), epochs=20)

    @cached_property
    def dropping(self) -> nn.Module:
        return self.fit(partial(convolutional, activation=lambda: nn.Sequential(nn.ReLU(), Dropping())))

    @cached_property
    def distilled(self) -> nn.Module:
        """Papernot et al., "Distillation as a defense to adversarial perturbations against deep neural networks", 2016:
        teacher and student learn at temperature 100, and the student answers at 1."""

        def hot(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
            return cross_entropy(model(x) / TEMPERATURE, y)

        teacher = self.fit(convolutional, epochs=20, lr=5e-3, objective=hot)
        with torch.no_grad():
            soft = (teacher(self.x) / TEMPERATURE).softmax(1)

        def student(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
            return F.cross_entropy(model(x) / TEMPERATURE, soft[rows], reduction="none")

        return self.fit(convolutional, 1, epochs=20, lr=5e-3, objective=student)

    @cached_property
    def winners(self) -> nn.Module:
        return self.fit(partial(dense, 512, Winners), lr=1e-3)

    @cached_property
    def vote(self) -> Vote:
        return Vote([self.plain(seed) for seed in range(3)])

    @cached_property
    def detached(self) -> HalfDetached:
        return HalfDetached(self.plain(0), self.plain(1))

    @cached_property
    def anti(self) -> AntiAdversary:
        return AntiAdversary(self.plain())

    @cached_property
    def guarded(self) -> Guarded:
        return Guarded.on(self.plain(), self.x)

    def _train_honest(self, training: str, seed: int) -> nn.Module:
        rng = torch.Generator().manual_seed(seed)
        objective = {"standard": ordinary, "pgd-at": partial(pgd_at, rng=rng), "trades": partial(trades, rng=rng)}
        return self.fit((convolutional, dense)[seed % 2], seed, objective=objective[training])

    def _evaluate(self, model: nn.Module, threat: Threat = LINF, **rest: Any) -> Evaluation:
        torch.manual_seed(0)  # for the exhibits that answer at random
        return evaluate(model, self.test, threat=threat, **rest)

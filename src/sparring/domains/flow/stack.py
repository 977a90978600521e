"""A stack of four detectors as one module: boosted trees, a forest, a perceptron and a linear model, and a linear model
on their probabilities. Fitted by scikit-learn and LightGBM (`stacking.py`), it needs neither to answer.

    logit p(u) = b + sum_k w_k p_k(u),    p_k the probability of malicious that base learner k gives
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sparring.domains.flow.trees import Trees, TreesError, of_boosting, of_forest

SPEC = "stack"
"""Its name in a detector's file."""

BASES = ("boosting", "forest", "perceptron", "logistic")
"""The base learners, in the order of their probabilities."""


class StackError(ValueError):
    """Tensors that are no stack."""


class Stack(nn.Module):
    """`[B, d] -> [B, 2]` logits of benign and malicious, float64: 0, and the meta-learner's log-odds.

    Args:
        boosting: whose sum is the log-odds of its ensemble.
        forest: whose sum is its probability.
        widths: of the perceptron's layers, from d to 1.
    """

    def __init__(self, boosting: Trees, forest: Trees, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.boosting, self.forest = boosting, forest
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.utils.skip_init(nn.Linear, inputs, outputs), nn.ReLU()]
        self.perceptron = nn.Sequential(*layers[:-1])
        self.logistic = nn.utils.skip_init(nn.Linear, widths[0], 1)
        self.meta = nn.utils.skip_init(nn.Linear, len(BASES), 1, dtype=torch.float64)

    def forward(self, u: Tensor) -> Tensor:
        return self.weighed(self.votes(u))

    def votes(self, u: Tensor) -> Tensor:
        """The probability of malicious by each of `BASES`, `[B, 4]`, float64. Those of trees have no gradient."""
        raw = [self.boosting(u), self.forest(u), self.perceptron(u).squeeze(1), self.logistic(u).squeeze(1)]
        return torch.stack([raw[0].sigmoid(), raw[1], raw[2].double().sigmoid(), raw[3].double().sigmoid()], 1)

    @torch.no_grad()
    def explained(self, u: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and what each coordinate contributed to the log-odds, float32 `[B, d]`.

        Of trees it is what changed along the way down (`Trees.explained`), of the other two gradient times distance
        from the reference; each is scaled so that it passes the base learner's own sigmoid as a whole, and weighed as
        the meta-learner weighs it.

        Args:
            u: vectors `[B, d]`.
            reference: the vector `[d]` that contributions are measured from.
        """
        votes, weight = self.votes(u), self.meta.weight.squeeze(0)
        boosted = self.boosting.explained(u)
        base = torch.tensor(self.boosting.base, dtype=torch.float64)
        parts = weight[0] * boosted * _secant(base + boosted.sum(1), base)
        parts += weight[1] * self.forest.explained(u)
        for k, module in ((2, self.perceptron), (3, self.logistic)):
            with torch.enable_grad():
                at = u.detach().requires_grad_()
                margin = module(at).squeeze(1)
                (slope,) = torch.autograd.grad(margin.sum(), at)
            origin = module(reference[None]).squeeze(1)
            parts += weight[k] * slope * (u - reference) * _secant(margin.detach().double(), origin.double())
        return self.weighed(votes), parts.float()

    def check(self, width: int) -> None:
        """Raises StackError where its trees could not be followed."""
        for trees in (self.boosting, self.forest):
            try:
                trees.check(width)
            except TreesError as error:
                raise StackError(str(error)) from error

    def weighed(self, votes: Tensor) -> Tensor:
        """The logits `[B, 2]` of what the base learners say, `[B, 4]`."""
        odds: Tensor = self.meta(votes).squeeze(1)
        return torch.stack([torch.zeros_like(odds), odds], 1)


def exported(fitted: Any) -> Stack:
    """The stack of a fitted `sklearn.ensemble.StackingClassifier` over the base learners of `stacking.learners`."""
    boosting, forest, perceptron, logistic = fitted.estimators_
    widths = (perceptron.coefs_[0].shape[0], *(each.shape[1] for each in perceptron.coefs_))
    stack = Stack(of_boosting(boosting.booster_), of_forest(forest), widths)
    linears = [module for module in stack.perceptron if isinstance(module, nn.Linear)]
    pairs = [*zip(linears, perceptron.coefs_, perceptron.intercepts_, strict=True)]
    pairs.append((stack.logistic, logistic.coef_.T, logistic.intercept_))
    pairs.append((stack.meta, fitted.final_estimator_.coef_.T, fitted.final_estimator_.intercept_))
    with torch.no_grad():
        for linear, weight, bias in pairs:
            linear.weight.copy_(torch.from_numpy(weight.T))
            linear.bias.copy_(torch.from_numpy(bias))
    return stack.eval().requires_grad_(False)


def blank(state: Mapping[str, Tensor], width: int) -> Stack:
    """A stack of the sizes of a state dict, to load it into.

    Args:
        state: of a `Stack`.
        width: d.

    Raises:
        StackError: where the tensors that tell the sizes are not there or tell none.
    """
    try:
        boosting, forest = (
            Trees(len(state[f"{name}.feature"]), len(state[f"{name}.root"])) for name in ("boosting", "forest")
        )
        names = [f"perceptron.{2 * k}.bias" for k in range(len(state)) if f"perceptron.{2 * k}.bias" in state]
        widths = (width, *(len(state[name]) for name in names))
    except (KeyError, TypeError) as error:
        raise StackError(f"A stack must have trees and a perceptron. It lacks {error}.") from error
    if len(widths) < 2:
        raise StackError("A stack must have a perceptron. It has none.")
    return Stack(boosting, forest, widths)


def _secant(odds: Tensor, origin: Tensor) -> Tensor:
    """(sigmoid(odds) - sigmoid(origin)) / (odds - origin), its limit where both are equal, `[B, 1]`."""
    apart = odds - origin
    near = apart.abs() < 1e-9
    slope = odds.sigmoid() * (1 - odds.sigmoid())
    return torch.where(near, slope, (odds.sigmoid() - origin.sigmoid()) / torch.where(near, 1.0, apart))[:, None]

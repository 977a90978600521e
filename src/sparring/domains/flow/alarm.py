"""How near a flow is to an alarm, as one number for a detector of any number of layers.

    a(u) = max( m(u) - logit t,  log(e_k(u) / t_k)  for every layer k behind the classifier )

m is the classifier's margin of malicious over benign and t the threshold on its probability; e_k is a layer's mean
squared reconstruction error and t_k its threshold. An alarm is raised exactly where a > 0, which is the rule that the
layers are asked in turn by. An attacker has to bring all of them below their thresholds, so -a is what to ascend: an
attack on the classifier alone is no attack on the detector. How the parts are weighed away from 0 is ours: one unit is
a factor of e in the odds, and a factor of e in the error.
"""

from dataclasses import dataclass, replace
from math import inf, log, pi
from typing import Self

import torch
from torch import Tensor, nn

from sparring.domains.flow.artefact import Detector, Layer

BATCH = 8192
"""Vectors whose severity is computed at once."""


@dataclass(frozen=True, eq=False)
class Alarm:
    """What raises alarms.

    Args:
        model: the classifier, `[B, d] -> [B, 2]` logits of benign and malicious.
        threshold: on the probability of malicious.
        layers: asked about what the classifier lets pass.
    """

    model: nn.Module
    threshold: float
    layers: tuple[Layer, ...] = ()

    @classmethod
    def of(cls, detector: Detector) -> "Alarm":
        """The alarm of a detector."""
        return cls(detector.model, detector.threshold, detector.layers)

    def __call__(self, u: Tensor, /) -> Tensor:
        """a of vectors `[B, d]`, `[B]`, differentiable where the models are."""
        parts = [self.margin(u)]
        for layer in self.layers:
            error = (layer.model(u) - u).square().mean(1)
            at = log(layer.threshold) if layer.threshold > 0 else -inf
            parts.append(error.clamp(min=torch.finfo(error.dtype).tiny).log() - at)
        return torch.stack(parts).amax(0)

    def margin(self, u: Tensor) -> Tensor:
        """The classifier's part of it, `[B]`."""
        logits: Tensor = self.model(u)
        return logits[:, 1] - logits[:, 0] - _log_odds(self.threshold)

    def evading(self, u: Tensor, /) -> Tensor:
        """-a: the gain of an attacker."""
        return -self(u)

    @torch.no_grad()
    def severity(self, u: Tensor) -> Tensor:
        """a, bent into [-1, 1]: (2 / pi) arctan a, float64 `[N]`. Above 0 is an alarm, as a is, and it is finite where
        a threshold is one that nothing or everything is above."""
        parts = [self(part).double().atan() for part in u.split(BATCH)]
        return torch.cat(parts) * (2 / pi)

    def with_classifier(self, model: nn.Module) -> Self:
        """The same layers behind another classifier, whose threshold is even odds."""
        return replace(self, model=model, threshold=0.5)

    def differentiable(self, u: Tensor) -> bool:
        """Whether the classifier has a gradient at any of these vectors."""
        with torch.enable_grad():
            at = u.detach().requires_grad_()
            value = self.margin(at)
            if not value.requires_grad:
                return False
            (slope,) = torch.autograd.grad(value.sum(), at, allow_unused=True)
        return slope is not None and bool((slope != 0).any())


def _log_odds(share: float) -> float:
    if share <= 0:
        return -inf
    return log(share / (1 - share)) if share < 1 else inf

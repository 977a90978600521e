"""Checks that an evaluation can be believed: each has a name, a verdict, the figure behind it, and what to do.

After Carlini et al., "On evaluating adversarial robustness", 2019, Athalye et al., "Obfuscated gradients give a false
sense of security", 2018, Tramer et al., "On adaptive attacks to adversarial example defenses", 2020, and Croce et al.,
"Evaluating the adversarial robustness of adaptive test-time defenses", 2022: a defence that only hides its gradient
fails at least one of them. The checks that have to run something of their own are in `sparring.evaluation.probes`.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sparring.core.threat import Threat
from sparring.evaluation.exploit import Challenge, Exploit

Check = dict[str, Any]

SLACK = 0.01
"""How far an accuracy may be off before it is a finding: attacks are heuristics."""


def check(name: str, holds: bool, figure: str, advice: str) -> Check:
    """`{"name", "verdict", "figure", "advice"}`."""
    return {"name": name, "verdict": "pass" if holds else "fail", "figure": figure, "advice": advice}


def surely(hits: int, n: int, share: float) -> bool:
    """Whether `hits` of n say that the true share is above `share`: under that share, as many or more would be seen
    less often than once in forty (exact binomial test). Few examples prove little: 3 of 100 against 0.01 may be luck.

    Args:
        hits: how many, of
        n: examples, at least as many.
        share: in (0, 1).
    """
    more = torch.arange(hits, n + 1, dtype=torch.float64)
    ways = math.lgamma(n + 1) - (more + 1).lgamma() - (n - more + 1).lgamma()
    log_mass = ways + more * math.log(share) + (n - more) * math.log1p(-share)
    return log_mass.logsumexp(0).exp().item() < 0.025


def verified(exploits: dict[str, Exploit]) -> Check:
    """Every z that an attack returned was finite and inside the threat model."""
    refused = sum(exploit.refused for exploit in exploits.values())
    total = sum(int(exploit.attempted.sum()) for exploit in exploits.values())
    return check(
        "verified",
        refused == 0,
        f"{refused} of {total} adversarial inputs refused",
        "An attack left the threat model or returned NaN; its numbers are those of the clean input there. Look at the "
        "model for NaN and at the attack's projection.",
    )


def loss_rose(clean_loss: Tensor, clean_right: Tensor, exploits: dict[str, Exploit]) -> Check:
    """The attack that raised the loss most raised it on the examples it could not flip, too."""
    strongest = max(exploits.values(), key=lambda exploit: exploit.loss.mean().item())
    rose = (strongest.loss > clean_loss)[clean_right & strongest.right]
    share = rose.double().mean().item() if len(rose) else 1.0
    return check(
        "loss-rose",
        not surely(int((~rose).sum()), len(rose), 0.05),
        f"{share:.1%} of {len(rose)} standing inputs have a higher loss under attack",
        "The attack does not climb: its gradient points nowhere useful. More steps will not help; another loss, a "
        "smoother model copy or a gradient-free attack may.",
    )


def crosses(challenges: tuple[Challenge, ...], threat: Threat) -> Check:
    """steps x step_size can cross the ball: otherwise the attack is weak by construction."""
    stepped = [(c.name, c.parameters) for c in challenges if "step_size" in c.parameters]
    short = [name for name, p in stepped if p["steps"] * p["step_size"] < threat.eps * (1 - 1e-9)]
    return check(
        "crosses-the-ball",
        not short,
        "every attack can reach the edge of the ball" if not short else f"too short: {', '.join(short)}",
        "Raise steps or step_size until steps x step_size is at least eps.",
    )


def eps_monotone(rights: Sequence[Tensor]) -> Check:
    """A larger eps never raises accuracy; `rights` are bool tensors `[N]` on the same examples, eps rising."""
    advice = "A larger ball holds the smaller one, so the attack fails at the larger eps: the gradient is masked."
    return _monotone("eps-monotone", "eps", rights, advice)


def steps_monotone(rights: Sequence[Tensor]) -> Check:
    """More steps never weaken the attack; `rights` are bool tensors `[N]` on the same examples, steps rising."""
    advice = "From the same start with the same step size, more steps can only help: the model answers at random."
    return _monotone("steps-monotone", "step counts", rights, advice)


def _monotone(name: str, along: str, rights: Sequence[Tensor], advice: str) -> Check:
    rise, finding = _rise(rights)
    return check(name, not finding, f"largest rise between neighbouring {along}: {rise:.1%}", advice)


def outdone(weaker: Tensor, stronger: Tensor, slack: float) -> tuple[float, bool]:
    """By how much accuracy falls from one attack to the next `[n]` bool, and whether that is a finding: more than
    `slack` and more than chance explains (McNemar's test on the examples that the two disagree about)."""
    down, up = int((weaker & ~stronger).sum()), int((stronger & ~weaker).sum())
    fall = (down - up) / max(1, len(weaker))
    return fall, fall > slack and down - up > 1.96 * math.sqrt(up + down)


def _rise(rights: Sequence[Tensor]) -> tuple[float, bool]:
    """The largest rise of accuracy from one attack to the next, and whether any is a finding."""
    falls = [outdone(stronger, weaker, SLACK) for weaker, stronger in pairwise(rights)]
    return max((0.0, *(fall for fall, _ in falls))), any(finding for _, finding in falls)


def large_eps(accuracy: float | None, eps: float, classes: int) -> Check:
    """An eps that allows any input to become plain grey takes accuracy to chance or below."""
    if accuracy is None:
        return check("large-eps", False, "not measured: no multiple of eps reaches grey", "Check the threat model.")
    return check(
        "large-eps",
        accuracy <= 1 / classes + SLACK,
        f"accuracy {accuracy:.1%} at eps {eps:g}, where chance is {1 / classes:.1%}",
        "With so large a ball every prediction can be changed; an attack that cannot is broken by this model.",
    )

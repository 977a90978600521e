"""Broken defences are flagged, each by the checks that its paper's critics would name; honest models by none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from defences import First, bit_depth, jpeg, slope_of_thermometer, thermometer
from exhibits import COUNT, LINF, REFUSAL, Museum
from torch import Tensor, nn

from sparring.attacks.bpda import Bpda
from sparring.core.payoff import Loss, cross_entropy, margin
from sparring.core.threat import L1, L2, Threat
from sparring.evaluation.ensemble import run
from sparring.evaluation.evaluate import Evaluation
from sparring.evaluation.exploit import exploit
from sparring.evaluation.subject import subject
from sparring.evaluation.suite import apgd_challenge, pgd_challenge, rand


@dataclass(frozen=True)
class Exhibit:
    """A defence, the checks that have to flag it, and how it is evaluated."""

    name: str
    model: Callable[[Museum], nn.Module]
    checks: set[str]
    rest: Callable[[Museum], dict[str, Any]] = lambda m: {}


def refusing(museum: Museum) -> dict[str, Any]:
    return {"abstain": REFUSAL}


def beside_another(museum: Museum) -> dict[str, Any]:
    return {"surrogate": museum.plain()}


EXHIBITS = (
    Exhibit("bit depth", lambda m: m.bits, {"gradient-alive", "finite-differences", "black-box", "large-eps"}),
    Exhibit("jpeg", lambda m: m.jpeg, {"gradient-alive", "finite-differences", "black-box", "large-eps"}),
    Exhibit("thermometer", lambda m: m.thermometer, {"gradient-alive", "finite-differences", "black-box", "large-eps"}),
    Exhibit("vote", lambda m: m.vote, {"gradient-alive", "finite-differences", "black-box", "loss-rose"}),
    Exhibit("scaled logits", lambda m: m.scaled, {"gradient-alive", "losses-agree", "loss-rose"}),
    Exhibit("distillation", lambda m: m.distilled, {"gradient-alive", "losses-agree"}),
    Exhibit("saturation", lambda m: m.saturating, {"finite-differences", "black-box"}),
    Exhibit("winners take all", lambda m: m.winners, {"finite-differences", "attacks-agree"}),
    Exhibit("random resizing", lambda m: m.random, {"deterministic", "finite-differences", "random-noise"}),
    Exhibit("dropout", lambda m: m.dropping, {"deterministic", "finite-differences", "random-noise"}),
    Exhibit("detached branch", lambda m: m.detached, {"finite-differences", "black-box"}),
    Exhibit("anti-adversary", lambda m: m.anti, {"finite-differences", "transfer"}, beside_another),
    Exhibit("probabilities", lambda m: m.probabilities, {"logits"}),
    Exhibit("detector", lambda m: m.guarded, {"eps-monotone", "large-eps", "black-box"}, refusing),
    Exhibit("detector as a class", lambda m: m.guarded, {"labels"}),
)


def failed(evaluation: Evaluation) -> set[str]:
    return {check["name"] for check in evaluation.checks if check["verdict"] == "fail"}


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_every_defence_is_flagged(museum: Museum, exhibit: Exhibit) -> None:
    assert exhibit.checks <= failed(museum.evaluation(exhibit.model(museum), **exhibit.rest(museum)))


@pytest.mark.parametrize("threat", [LINF, L2(0.75), L1(3.0)], ids=["linf", "l2", "l1"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("training", ["standard", "pgd-at", "trades"])
def test_honest_models_are_flagged_by_nothing(museum: Museum, training: str, seed: int, threat: Threat) -> None:
    evaluation = museum.evaluation(museum.honest(training, seed), threat)
    assert not [check for check in evaluation.checks if check["verdict"] == "fail"]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("training", ["pgd-at", "trades"])
def test_the_honest_robust_models_are_robust(museum: Museum, training: str, seed: int) -> None:
    """Else nothing could be wrong with their evaluation."""
    evaluations = [museum.evaluation(museum.honest(name, seed)) for name in ("standard", training)]
    fragile, robust = (evaluation.results["worst"]["accuracy"] for evaluation in evaluations)
    assert fragile < 0.2
    assert robust > 0.45


def standing(museum: Museum, model: nn.Module, loss: Loss, steps: int, abstain: int | None = None) -> Tensor:
    """Which test images stand against PGD."""
    attack = pgd_challenge("pgd", LINF, loss, steps=steps)
    return exploit(subject(model, museum.test, abstain=abstain), LINF, attack, seed=0).right


def share(right: Tensor) -> float:
    return right.double().mean().item()


CLAIMS: tuple[tuple[str, Callable[[Museum], nn.Module], Callable[[Museum], nn.Module], int | None], ...] = (
    ("bit depth", lambda m: m.bits, lambda m: First(Bpda(bit_depth), m.plain()), None),
    ("jpeg", lambda m: m.jpeg, lambda m: First(Bpda(jpeg), m.plain()), None),
    (
        "thermometer",
        lambda m: m.thermometer,
        lambda m: First(Bpda(thermometer, slope_of_thermometer), m.thermometer.inner),
        None,
    ),
    ("vote", lambda m: m.vote, lambda m: Bpda(m.vote, m.vote.soft), None),
    ("scaled logits", lambda m: m.scaled, lambda m: m.scaled, None),
    ("distillation", lambda m: m.distilled, lambda m: m.distilled, None),
    ("detached branch", lambda m: m.detached, lambda m: m.detached.repaired(), None),
    ("detector", lambda m: m.guarded, lambda m: m.guarded.softened(), REFUSAL),
)


@pytest.mark.parametrize(("claimed", "true", "abstain"), [c[1:] for c in CLAIMS], ids=[c[0] for c in CLAIMS])
def test_the_defence_falls_to_who_knows_it(
    museum: Museum,
    claimed: Callable[[Museum], nn.Module],
    true: Callable[[Museum], nn.Module],
    abstain: int | None,
) -> None:
    """PGD-20 on cross-entropy reports at least a fifth more than stands against PGD-50 on the margin through a copy
    that answers alike, but has a gradient."""
    defence, copy = claimed(museum), true(museum)
    x = LINF.sample(museum.test[0], torch.Generator().manual_seed(0))
    for inputs in (museum.test[0], x):
        assert torch.equal(defence(inputs).argmax(1), copy(inputs).argmax(1))
    report = share(standing(museum, defence, cross_entropy, 20, abstain))
    assert report > 0.4
    assert share(standing(museum, copy, margin, 50, abstain)) < report - 0.2


@pytest.mark.parametrize("name", ["saturating", "winners"])
def test_the_suite_gets_through_where_plain_pgd_does_not(museum: Museum, name: str) -> None:
    defence = getattr(museum, name)
    report = share(standing(museum, defence, cross_entropy, 20))
    assert museum.evaluation(defence).results["worst"]["accuracy"] < report - 0.3


def test_the_random_defence_falls_to_the_mean_of_its_draws(museum: Museum) -> None:
    """Accuracy is that of fresh draws at the inputs that an attack returned: one that stops at its first lucky draw
    returns nothing that would win again."""
    made = subject(museum.random, museum.test)

    def fresh(z: Tensor) -> float:
        return share(torch.stack([made.predict(z).argmax(1) == made.y for _ in range(20)]))

    torch.manual_seed(0)
    lucky = exploit(made, LINF, pgd_challenge("one draw", LINF, cross_entropy, steps=20), seed=0)
    outcome = run(made, LINF, rand(LINF, 10, draws=5), seed=0, watch=lambda stage: lambda done: None)
    assert fresh(outcome.z) < fresh(lucky.z) - 0.2
    assert outcome.results["worst"]["accuracy"] < lucky.right.double().mean() - 0.2


def test_the_anti_adversary_falls_to_inputs_made_without_it(museum: Museum) -> None:
    """Its own gradient misleads; the model inside, attacked alone, gives it away, as in Croce et al. 2022."""
    evaluation = museum.evaluation(museum.anti, **beside_another(museum))
    attack = apgd_challenge("apgd", LINF, margin, steps=50)
    z = exploit(subject(museum.plain(), museum.test), LINF, attack, seed=0).z
    stands = subject(museum.anti, museum.test).standing(z, torch.arange(COUNT))
    assert share(stands) < evaluation.results["worst"]["accuracy"] - 0.05
    assert share(stands) < share(standing(museum, museum.anti, cross_entropy, 20)) - 0.2


def test_the_detector_with_a_slope_is_an_honest_one(museum: Museum) -> None:
    """The same refusals; what was wrong was that no gradient led out of them."""
    assert not failed(museum.evaluation(museum.guarded.softened(), abstain=REFUSAL))


def test_an_attack_that_does_not_know_of_the_detector_is_refused(museum: Museum) -> None:
    """The number that such papers reported: inputs made for the model alone, many of them refused."""
    made = subject(museum.guarded, museum.test, abstain=REFUSAL)
    attack = pgd_challenge("pgd", LINF, cross_entropy, steps=20)
    z = exploit(subject(museum.plain(), museum.test), LINF, attack, seed=0).z
    stands = made.standing(z, torch.arange(COUNT))
    worst = museum.evaluation(museum.guarded, abstain=REFUSAL).results["worst"]["accuracy"]
    assert worst < share(stands) - 0.3

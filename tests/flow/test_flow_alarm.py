"""One number for detectors of several layers, whether a gradient tells it all, and copies of a detector."""

import math

import pytest
import torch
from tests.flow.made_flows import rows
from torch import Tensor, nn

from sparring.commands.flow_bench import gradient_of
from sparring.core.threat import Linf
from sparring.domains.flow import models
from sparring.domains.flow.alarm import Alarm
from sparring.domains.flow.artefact import Detector, Layer
from sparring.domains.flow.feasible import Feasible
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.scoring import Scorer
from sparring.domains.flow.substitute import fit_substitute

WIDTH = 6


def linear(*weights: float) -> nn.Module:
    """The margin of malicious is the weighted sum of the coordinates."""
    model = nn.Linear(len(weights), 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0] * len(weights), list(weights)]))
    return model.requires_grad_(False)


class Steps(nn.Module):
    """Votes that jump, as trees do, beside a slope."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, u: Tensor) -> Tensor:
        votes = (u > 0.5).to(u.dtype).sum(1) + self.slope * u.sum(1)
        return torch.stack([torch.zeros_like(votes), votes], 1)


@pytest.fixture(scope="module")
def made() -> tuple[Preprocessing, Tensor]:
    table = rows(0, 200)
    preprocessing = Preprocessing.fit(table)
    return preprocessing, preprocessing.encode(table)


@pytest.mark.parametrize("layered", [False, True])
def test_an_alarm_is_what_the_scorer_calls_an_attack(made: tuple[Preprocessing, Tensor], layered: bool) -> None:
    preprocessing, u = made
    torch.manual_seed(0)
    model, behind = models.mlp(u.shape[1]).eval(), models.autoencoder(u.shape[1]).eval()
    with torch.no_grad():
        score, error = model(u).softmax(1)[:, 1], (behind(u) - u).square().mean(1)
    layers = (Layer("autoencoder", behind, float(error.median())),) if layered else ()
    detector = Detector("mlp", model, preprocessing, float(score.quantile(0.7)), 0.01, u.mean(0), layers)
    alarm = Alarm.of(detector)
    raised = Scorer(detector)(u).attack
    assert 0.2 < raised.double().mean() < 0.9
    assert torch.equal(alarm.severity(u) > 0, raised)
    assert torch.equal(alarm(u).detach() > 0, raised)
    assert bool((alarm.severity(u).abs() < 1).all())


def test_the_parts_are_log_odds_and_log_error_over_their_thresholds() -> None:
    u = torch.tensor([[0.2, 0.4], [0.9, 0.1]])
    behind = nn.Identity()
    behind.forward = lambda v: v + torch.tensor([0.1, 0.3])  # type: ignore[method-assign, assignment]
    alarm = Alarm(linear(1.0, 2.0), 0.2, (Layer("autoencoder", behind, 0.5),))
    wanted = [max(m - math.log(0.25), math.log(0.05 / 0.5)) for m in (1.0, 1.1)]
    torch.testing.assert_close(alarm(u), torch.tensor(wanted))
    torch.testing.assert_close(alarm.evading(u), -torch.tensor(wanted))
    torch.testing.assert_close(alarm.severity(u), (torch.tensor(wanted).double().atan() * 2 / math.pi))


@pytest.mark.parametrize(("threshold", "severity"), [(0.0, 1.0), (1.0, -1.0), (1.000001, -1.0)])
def test_a_threshold_that_everything_or_nothing_is_above(threshold: float, severity: float) -> None:
    assert Alarm(linear(1.0, 2.0), threshold).severity(torch.rand(5, 2)).tolist() == [severity] * 5


def test_a_gradient_that_tells_only_a_part_is_found_out() -> None:
    x, rng = torch.rand(50, WIDTH), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = models.mlp(WIDTH).eval()
    for model, found in (
        (linear(*range(WIDTH)), "whole"),
        (network, "whole"),
        (Steps(1.0), "part"),
        (Steps(0.0), "none"),
    ):
        assert gradient_of(Alarm(model, 0.5), x, Linf(0.3), rng) == found


def test_a_substitute_answers_as_its_detector(made: tuple[Preprocessing, Tensor]) -> None:
    preprocessing, u = made
    weights = torch.linspace(-3, 3, u.shape[1])
    detector = Alarm(linear(*weights.tolist()), float((u @ weights).median().sigmoid()))
    alike = detector.severity(u) <= 0
    rng = torch.Generator().manual_seed(0)

    def answers(v: Tensor) -> Tensor:
        return detector.margin(v).sigmoid()

    copied = fit_substitute(answers, u[alike], u[~alike], Feasible(preprocessing, 0.1), rng, steps=100)
    copy = detector.with_classifier(copied)
    assert ((copy.severity(u) > 0) == ~alike).double().mean() > 0.9
    again = fit_substitute(
        answers, u[alike], u[~alike], Feasible(preprocessing, 0.1), torch.Generator().manual_seed(0), steps=100
    )
    assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), again.parameters(), strict=True))
    with pytest.raises(ValueError, match="'answers' parameter"):
        fit_substitute(lambda v: v.sum(1) + 2, u[alike], u[~alike], Feasible(preprocessing, 0.1), rng)

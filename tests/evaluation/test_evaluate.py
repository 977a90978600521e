"""The evaluation on models whose answer is known, and on attacks that lie."""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.core.payoff import cross_entropy
from sparring.core.standing import DeadStartError
from sparring.core.threat import L1, L2, Linf
from sparring.evaluation import sanity
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.exploit import Challenge, exploit
from sparring.evaluation.grids import reaching_grey
from sparring.evaluation.probes import gradient_alive
from sparring.evaluation.subject import subject
from sparring.evaluation.suite import Suite, fgsm_challenge, foundation, pgd_challenge


class Linear(nn.Module):
    """Two classes; the margin of x is w.x + b for class 1 and its negative for class 0."""

    def __init__(self, d: int = 12) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(d, generator=torch.Generator().manual_seed(0), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        value = (x.flatten(1) - 0.5) @ self.w
        return torch.stack([-value / 2, value / 2], 1)


def linear_data(n: int = 200, d: int = 12) -> tuple[Linear, Tensor, Tensor]:
    """Inputs far enough from the box that it never cuts a ball of the radii used here, and right labels."""
    rng = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(n, d, generator=rng, dtype=torch.float64)
    model = Linear(d)
    return model, x, model(x).argmax(1)


DUAL = {"linf": 1, "l2": 2, "l1": math.inf}


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.15), L1(0.25, sparsity=1.0)])
def test_robust_accuracy_of_a_linear_model_is_its_closed_form(threat: Any) -> None:
    """An example falls exactly when |w.x + b| < eps ||w||_dual; PGD comes within a hundredth of that radius."""
    model, x, y = linear_data()
    distance = ((x - 0.5) @ model.w).abs() / torch.linalg.vector_norm(model.w, ord=DUAL[threat.describe()["norm"]])
    exact, near = ((distance > radius).double().mean().item() for radius in (threat.eps, 0.99 * threat.eps))
    assert 0.1 < exact <= near < 0.9
    result = evaluate(model, (x, y), threat=threat, suite=foundation).results
    assert exact - 1e-12 <= result["worst"]["accuracy"] <= near + 1e-12
    if isinstance(threat, Linf):  # a sign step ends on the optimum itself
        assert result["pgd-100-margin"]["accuracy"] == pytest.approx(exact, abs=1e-12)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A network trained a little, on a task with ten classes."""
    rng = torch.Generator().manual_seed(0)
    centres = 0.3 + 0.4 * torch.rand(10, 1, 6, 6, generator=rng)
    y = torch.arange(240) % 10
    x = (centres[y] + 0.1 * torch.randn(240, 1, 6, 6, generator=rng)).clamp(0, 1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(model(x), y).mean().backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model, x, y


@pytest.fixture(scope="module")
def evaluation(trained: tuple[nn.Module, Tensor, Tensor]) -> sparring.Evaluation:
    model, x, y = trained
    return evaluate(model, (x, y), threat=Linf(0.1), suite=foundation)


def test_the_worst_case_is_below_every_attack_and_every_attack_below_clean(evaluation: sparring.Evaluation) -> None:
    results = evaluation.results
    names = [name for name in results if name not in ("clean", "worst")]
    assert names == ["fgsm", "pgd-20", "pgd-100", "pgd-100-margin"]
    for name in names:
        assert results["worst"]["accuracy"] <= results[name]["accuracy"] <= results["clean"]["accuracy"]
    assert results["worst"]["accuracy"] < results["clean"]["accuracy"]


def test_every_number_has_n_an_interval_and_its_parameters(evaluation: sparring.Evaluation) -> None:
    grids = [*evaluation.eps_grid, *evaluation.steps_grid]
    for row in [*evaluation.results.values(), *grids]:
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["n"] == 240
    for name in ("fgsm", "pgd-20", "pgd-100", "pgd-100-margin"):
        parameters = evaluation.results[name]["parameters"]
        assert set(parameters) == {"attack", "loss", "steps", "step_size", "random_start", "restarts"}
    assert json.loads(json.dumps(evaluation.as_dict(), allow_nan=False)) == evaluation.as_dict()


def test_an_honest_model_passes_every_check(evaluation: sparring.Evaluation) -> None:
    assert not [check for check in evaluation.checks if check["verdict"] != "pass"]


def test_the_evaluation_is_deterministic_and_leaves_the_model_as_found(
    trained: tuple[nn.Module, Tensor, Tensor], evaluation: sparring.Evaluation
) -> None:
    model, x, y = trained
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(99)
    again = evaluate(model, (x, y), threat=Linf(0.1), suite=foundation)
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    def timeless(e: sparring.Evaluation) -> dict[str, Any]:
        results = {name: {**row, "seconds": 0} for name, row in e.results.items()}
        return {**e.as_dict(), "results": results, "seconds": 0}

    assert timeless(again) == timeless(evaluation)


def test_batches_are_the_same_as_one_tensor(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = trained
    suite = Suite("one", (fgsm_challenge("fgsm", Linf(0.1)),))
    whole = evaluate(model, (x, y), threat=Linf(0.1), suite=suite)
    parts = evaluate(model, zip(x.split(50), y.split(50), strict=True), threat=Linf(0.1), suite=suite, batch_size=7)
    assert whole.results["fgsm"]["accuracy"] == parts.results["fgsm"]["accuracy"]


def test_the_examples_are_verified_adversarial_inputs(
    trained: tuple[nn.Module, Tensor, Tensor], evaluation: sparring.Evaluation
) -> None:
    model, x, _ = trained
    shown = evaluation.examples
    assert Linf(0.1).contains(shown["z"], shown["x"]).all()
    with torch.no_grad():
        assert torch.equal(model.eval()(shown["z"]).argmax(1), shown["adversarial_prediction"])
        assert torch.equal(model(shown["x"]).argmax(1), shown["clean_prediction"])
    assert len(shown["x"]) == 24
    drawn = [next(i for i in range(240) if torch.equal(x[i], row)) for row in shown["x"]]
    assert drawn != sorted(drawn)  # at random, not the first, nor picked by what became of them


def lying(answer: Any) -> Challenge:
    """An attack that returns what it likes."""
    parameters = {"attack": "lie", "loss": "none", "steps": 1, "step_size": 1.0, "random_start": False, "restarts": 1}
    return Challenge("lie", answer, cross_entropy, parameters)


@pytest.mark.parametrize(
    "answer",
    [
        lambda gain, x, threat, *, rng: 1 - x,  # far outside the ball
        lambda gain, x, threat, *, rng: x + 0.11,  # a little outside
        lambda gain, x, threat, *, rng: torch.full_like(x, torch.nan),
        lambda gain, x, threat, *, rng: torch.full_like(x, torch.inf),
    ],
)
def test_an_attack_that_leaves_the_threat_model_gains_nothing_and_is_reported(
    trained: tuple[nn.Module, Tensor, Tensor], answer: Any
) -> None:
    model, x, y = trained
    x = 0.2 + 0.5 * x
    found = exploit(subject(model, (x, y), batch_size=64), Linf(0.1), lying(answer), seed=0)
    clean = model.eval()(x).argmax(1) == y
    assert torch.equal(found.right, clean)
    assert torch.equal(found.z, x)
    assert found.refused == int(clean.sum())
    assert sanity.verified({"lie": found})["verdict"] == "fail"


def test_an_attack_that_claims_success_on_a_right_prediction_is_not_believed(
    trained: tuple[nn.Module, Tensor, Tensor],
) -> None:
    model, x, y = trained
    idle = lying(lambda gain, x, threat, *, rng: x.clone())
    found = exploit(subject(model, (x, y), batch_size=64), Linf(0.1), idle, seed=0)
    assert torch.equal(found.right, model.eval()(x).argmax(1) == y)


def test_a_dead_start_is_counted_and_fails_a_check(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    def dead(gain: Any, x: Tensor, threat: Any, *, rng: Any) -> Tensor:
        raise DeadStartError

    model, x, y = trained
    made = subject(model, (x, y), batch_size=64)
    found = exploit(made, Linf(0.1), lying(dead), seed=0)
    assert found.dead == int(found.right.sum()) > 0
    assert gradient_alive(made, {"lie": found})["verdict"] == "fail"
    assert gradient_alive(made, {})["verdict"] == "pass"


class Quantised(nn.Module):
    """A defence that hides its gradient: the input is rounded to four levels."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x * 3).round() / 3)


def test_a_defence_that_hides_its_gradient_is_flagged(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = trained
    result = evaluate(Quantised(model), (x, y), threat=Linf(0.1))
    failed = {check["name"] for check in result.checks if check["verdict"] == "fail"}
    assert {"gradient-alive", "large-eps"} <= failed
    assert "-> " in str(result)


def test_an_attack_too_short_for_the_ball_is_flagged() -> None:
    threat = Linf(0.3)
    short = lying(None)
    assert sanity.crosses(foundation(threat, 10).challenges, threat)["verdict"] == "pass"
    short.parameters.update(steps=2, step_size=0.1)
    assert sanity.crosses((short,), threat)["verdict"] == "fail"


def test_a_rise_that_chance_explains_is_not_flagged_and_one_that_it_does_not_is() -> None:
    first, same = torch.arange(1000) < 500, torch.arange(1000) % 2 == 0
    more = torch.arange(1000) < 530  # thirty more stand, none fewer: no chance
    swapped = (torch.arange(1000) >= 250) & (torch.arange(1000) < 765)  # 15 more, but 515 disagree: chance
    few = torch.arange(1000) < 508  # under a point
    assert sanity.eps_monotone([first, more])["verdict"] == "fail"
    assert sanity.steps_monotone([more, first, more])["verdict"] == "fail"
    for harmless in (first, same, swapped, few):
        assert sanity.eps_monotone([first, harmless])["verdict"] == "pass"


@pytest.mark.parametrize("threat", [Linf(0.01), L2(0.1), L1(0.5)])
def test_reaching_grey_is_the_first_power_of_two_that_allows_it(threat: Any) -> None:
    x = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    grey = torch.full_like(x, 0.5)
    factor = reaching_grey(threat, x, 0.0, 1.0)
    assert threat.scaled(factor).contains(grey, x).all()
    assert not threat.scaled(factor / 2).contains(grey, x).all()


def test_a_masked_threat_never_reaches_grey() -> None:
    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 0] = 1
    assert reaching_grey(sparring.Masked(Linf(0.0001), mask), x, 0.0, 1.0) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x + 0.5, y), r"x must be inside \[0, 1\]. Got values in"),
        (lambda x, y: ((255 * x).to(torch.uint8), y), "floating point in .* divide 8-bit pixels by 255"),
        (
            lambda x, y: (torch.where(torch.arange(240)[:, None, None, None] == 7, torch.nan, x), y),
            "Example 7 holds NaN",
        ),
        (lambda x, y: (x, y + 1), r"Labels must be in \[0, 10\). Got values in \[1, 10\]"),
        (lambda x, y: (x, y - 1), r"Labels must be in \[0, 10\). Got values in \[-1, 8\]"),
        (lambda x, y: (x, y[:-1]), "data must be"),
        (lambda x, y: [], "at least one batch"),
    ],
)
def test_bad_data_is_refused_with_what_is_wrong(trained: Any, change: Any, message: str) -> None:
    model, x, y = trained
    with pytest.raises(ValueError, match=message):
        evaluate(model, change(x, y), threat=Linf(0.1))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda z: z[:1], r"must be \[B, classes\]"),
        (lambda z: z[:, :, None], r"Got \[240, 10, 1\]"),
        (lambda z: z * torch.nan, "must be finite"),
    ],
)
def test_a_model_that_does_not_answer_with_logits_is_refused(trained: Any, output: Any, message: str) -> None:
    model, x, y = trained

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return output(model(x))

    with pytest.raises(ValueError, match=message):
        evaluate(Odd(), (x, y), threat=Linf(0.1))


def test_a_margin_attack_and_a_cross_entropy_attack_agree_on_two_classes() -> None:
    """With two classes the one loss is an increasing function of the other."""
    model, x, y = linear_data()
    threat = Linf(0.05)
    challenges = tuple(
        pgd_challenge(name, threat, loss, steps=50)
        for name, loss in (("ce", cross_entropy), ("margin", sparring.core.payoff.margin))
    )
    suite = Suite("two", challenges, sequential=False)
    result = evaluate(model, (x, y), threat=threat, suite=suite).results
    assert result["ce"]["accuracy"] == result["margin"]["accuracy"]

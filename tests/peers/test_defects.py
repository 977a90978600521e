"""Defects confirmed in released libraries, each as a test that ours passes. None of those libraries is needed here.

What is covered where it belongs is not repeated: an L2 projection that scales small perturbations up is in
tests/core/test_threat.py and tests/attacks/test_minimal_norm.py, fewer than ten classes, a resumed evaluation and the
composition of the standard ensemble in tests/evaluation/test_ensemble.py.
"""

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.core.attack import best_of, restarts
from sparring.core.gain import ClassifierGain
from sparring.core.gradient import frozen
from sparring.core.payoff import cross_entropy, margin, of_model
from sparring.core.pgd import ShortAttackWarning, fgsm, pgd
from sparring.core.players import Attacker, Descent
from sparring.core.threat import L2, Linf
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.suite import quick


@pytest.fixture
def case() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4)).eval()
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model[-1].bias -= model(x).mean(0)  # no class is the answer to everything
        return model, x, model(x).argmax(1)


def test_an_ensemble_never_returns_clean_inputs_where_a_member_won(case: Any) -> None:
    """Released: the best z starts as the clean input at distance zero, which nothing beats (100 % "robust")."""
    model, x, y = case
    gain = ClassifierGain(model, y, margin)
    first, second = partial(pgd, steps=10, step_size=0.1), partial(fgsm, step_size=0.3)
    for early_stop in (False, True):
        attack = best_of(first, second, early_stop=early_stop)
        rng = torch.Generator().manual_seed(0)
        _, lost = gain.judge(attack(gain, x, Linf(0.3), rng=rng))
        rng = torch.Generator().manual_seed(0)
        singles = torch.stack([gain.judge(member(gain, x, Linf(0.3), rng=rng))[1] for member in (first, second)])
        assert lost.any()
        assert (lost >= singles[:1].any(0)).all()


def test_a_measurement_does_not_remember_the_one_before(case: Any) -> None:
    """Released: the accuracy object keeps its counts between calls, and a checker its counters between models."""
    model, x, y = case

    class Restless(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return model(z) + 0.5 * torch.randn(len(z), 4)

    def verdict(evaluation: sparring.Evaluation) -> str:
        return next(check["verdict"] for check in evaluation.checks if check["name"] == "deterministic")

    before = evaluate(model, (x, y), threat=Linf(0.05))
    torch.manual_seed(0)
    assert verdict(evaluate(Restless(), (x, y), threat=Linf(0.05))) == "fail"
    after = evaluate(model, (x, y), threat=Linf(0.05))
    assert verdict(before) == verdict(after) == "pass"
    assert [row["accuracy"] for row in after.results.values()] == [row["accuracy"] for row in before.results.values()]


def test_a_later_restart_does_not_overwrite_an_earlier_success(case: Any) -> None:
    """Released: a mask that is true everywhere lets every restart overwrite the last."""
    model, x, y = case
    gain = ClassifierGain(model, y, margin)
    calls: list[int] = []

    def once(gain: Any, x: Tensor, threat: Any, /, *, rng: Any = None) -> Tensor:
        calls.append(1)
        return pgd(gain, x, threat, steps=20, rng=rng) if len(calls) == 1 else x.clone()

    for early_stop in (False, True):
        calls.clear()
        single = gain.judge(pgd(gain, x, Linf(0.3), steps=20, rng=torch.Generator().manual_seed(0)))[1]
        z = restarts(once, 4, early_stop=early_stop)(gain, x, Linf(0.3), rng=torch.Generator().manual_seed(0))
        assert torch.equal(gain.judge(z)[1], single)
        assert single.any()


def test_the_gradient_of_an_attack_does_not_reach_the_update(case: Any) -> None:
    """Released: forty attack steps by `backward()` add their parameter gradients to the training step (30 times it)."""
    model, x, y = case
    payoff = of_model(cross_entropy)
    attacker = Attacker(payoff, Linf(0.1), partial(pgd, steps=5, random_start=False))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    z = attacker.respond(model, (x, y))
    assert all(parameter.grad is not None and (parameter.grad == 7.0).all() for parameter in model.parameters())
    seen: dict[str, Tensor] = {}

    class Watching(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            seen.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    Descent(model, Watching(model.parameters(), lr=0.1), payoff).update(z, (x, y))
    model.zero_grad()
    model.train()
    cross_entropy(model(z), y).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(seen[name], parameter.grad)


def test_every_module_is_left_in_the_mode_it_was_found_in(case: Any) -> None:
    """Released: after an attack a BatchNorm that the user had frozen is training again."""
    model, x, y = case
    model.train()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    with frozen(model):
        pgd(ClassifierGain(model, y, margin), x, L2(0.5), steps=3)
    evaluate(model, (x, y), threat=Linf(0.05), suite=quick)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(buffers[name], value) for name, value in model.named_buffers())
    with pytest.raises(RuntimeError, match="boom"), frozen(model):
        raise RuntimeError("boom")
    assert [module.training for module in model.modules()] == modes


def test_restarts_start_somewhere_else(case: Any) -> None:
    """Released: without a random start, ten restarts are one."""
    model, x, y = case
    starts: list[Tensor] = []

    def watched(z: Tensor) -> Tensor:
        starts.append(z.detach().clone())
        return margin(model(z), y)

    pgd(watched, x, Linf(0.1), steps=1, restarts=3, rng=torch.Generator().manual_seed(0))
    firsts = [starts[i] for i in (0, 3, 6)]
    assert not torch.equal(firsts[0], firsts[1])
    assert not torch.equal(firsts[1], firsts[2])


def test_an_attack_that_cannot_cross_the_ball_says_so(case: Any) -> None:
    """Released: a default step of eps/30 lets twenty steps cover two thirds of eps: 94 % where 62 % is the truth."""
    model, x, y = case
    gain = ClassifierGain(model, y, margin)
    with pytest.warns(ShortAttackWarning, match=r"20 steps of 0\.01 are shorter than eps 0\.3"):
        pgd(gain, x, Linf(0.3), steps=20, step_size=0.3 / 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pgd(gain, x, Linf(0.3), steps=20)
        pgd(gain, x, Linf(0.3), steps=20, step_size=0.3 / 20)
        evaluate(model, (x, y), threat=Linf(0.05))

"""Averages of weights along training: closed forms, what torch does, the rules' limits, exact resume."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sparring.engine.averaging import Average, Equal, Exponential
from sparring.engine.training import Training


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()


def path(steps: int, seed: int = 1) -> list[nn.Module]:
    """The model after each of some random steps, BatchNorm's buffers included."""
    torch.manual_seed(seed)
    here, models = model(), []
    for _ in range(steps):
        here(torch.randn(8, 3, dtype=torch.float64) * 2 + 1)
        with torch.no_grad():
            for p in here.parameters():
                p.add_(torch.randn_like(p))
        models.append(copy.deepcopy(here))
    return models


def averaged(rule: object, models: list[nn.Module]) -> nn.Module:
    average = Average(models[0], rule)  # type: ignore[arg-type]
    for step, each in enumerate(models, 1):
        average.update(each, step)
    return average.module


def weighted(models: list[nn.Module], weights: list[float]) -> dict[str, torch.Tensor]:
    """sum_t w_t tensor_t of every floating-point tensor, term by term in float64."""
    states = [each.state_dict() for each in models]
    return {
        name: sum((w * state[name] for w, state in zip(weights, states, strict=True)), torch.zeros(()))
        for name, first in states[0].items()
        if first.is_floating_point()
    }


def far(module: nn.Module, expected: dict[str, torch.Tensor]) -> float:
    state = module.state_dict()
    return max(float((state[name] - value).abs().max()) for name, value in expected.items())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_ema_is_its_closed_form(decay: float, steps: int) -> None:
    """d^(n-1) w_1 + sum_{t>1} (1 - d) d^(n-t) w_t."""
    models = path(steps)
    weights = [(1 - decay if t else 1.0) * decay ** (steps - 1 - t) for t in range(steps)]
    assert math.isclose(sum(weights), 1)
    assert far(averaged(Exponential(decay), models), weighted(models, weights)) < 1e-12


def test_ema_with_warmup_is_its_closed_form_and_forgets_the_first_weights() -> None:
    models = path(30)
    decays = [min(0.999, (1 + t) / (10 + t)) for t in range(1, 30)]
    weights = [1.0]
    for d in decays:
        weights = [w * d for w in weights] + [1 - d]
    assert far(averaged(Exponential(0.999, warmup=True), models), weighted(models, weights)) < 1e-12
    assert weights[0] < 1e-5 < 0.9 < 0.999**29


def test_warmup_ends_where_the_decay_is_reached() -> None:
    slow, plain = Exponential(0.9, warmup=True), Exponential(0.9)
    assert all(slow.weight(step) > plain.weight(step) for step in range(2, 80))
    assert all(slow.weight(step) == plain.weight(step) for step in (1, 82, 83, 1000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ema_is_torchs_averaged_model_bit_for_bit(dtype: torch.dtype) -> None:
    models = [each.to(dtype) for each in path(9)]
    theirs = AveragedModel(models[0], multi_avg_fn=get_ema_multi_avg_fn(0.97), use_buffers=True)
    for each in models:
        theirs.update_parameters(each)
    ours = averaged(Exponential(0.97), models).state_dict()
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(ours[name], value), name
    assert ours["1.num_batches_tracked"] == 9  # torch truncates the mean of counts at every step


@given(st.integers(1, 5), st.integers(1, 6), st.floats(0, 0.99))
def test_swa_is_the_arithmetic_mean_of_the_samples_after_the_start(every: int, epochs: int, share: float) -> None:
    models = path(every * epochs)
    start = math.floor(share * len(models))
    chosen = [step for step in range(1, len(models) + 1) if step % every == 0 and step > start]
    assert chosen
    weights = [1 / len(chosen) if step in chosen else 0.0 for step in range(1, len(models) + 1)]
    module = averaged(Equal(start=start, every=every), models)
    assert far(module, weighted(models, weights)) < 1e-12


def test_until_the_start_the_last_sample_is_kept() -> None:
    models = path(6)
    average = Average(models[0], Equal(start=4, every=2))
    for step, each in enumerate(models[:4], 1):
        average.update(each, step)
        if step % 2 == 0:
            assert far(average.module, weighted([each], [1.0])) == 0


@pytest.mark.parametrize("rule", [Exponential(0.8), Exponential(0.99, warmup=True), Equal(start=3, every=2)])
def test_an_average_resumes_bit_for_bit_and_leaves_the_model_alone(rule: object) -> None:
    models = path(11)
    before = [copy.deepcopy(each.state_dict()) for each in models]
    whole = averaged(rule, models).state_dict()
    for cut in (1, 4, 10):
        first = Average(models[0], rule)  # type: ignore[arg-type]
        for step in range(1, cut + 1):
            first.update(models[step - 1], step)
        second = Average(model(9), rule)  # type: ignore[arg-type]
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        for step in range(cut + 1, 12):
            second.update(models[step - 1], step)
        assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.items())
    for each, state in zip(models, before, strict=True):
        assert all(torch.equal(value, each.state_dict()[name]) for name, value in state.items())
        assert all(p.requires_grad for p in each.parameters())


def test_training_makes_the_average_that_its_flags_name() -> None:
    m = model()
    assert Training().make_average(m, 10) is None
    ema, warm = (Training(ema=0.9, ema_warmup=w).make_average(m, 10) for w in (False, True))
    assert ema is not None
    assert warm is not None
    assert (ema.rule, warm.rule) == (Exponential(0.9), Exponential(0.9, warmup=True))
    swa = Training(swa=0.75, epochs=30).make_average(m, 10)
    assert swa is not None
    assert swa.rule == Equal(start=225, every=10)
    assert [step for step in range(1, 301) if swa.rule.weight(step) not in (0.0, 1.0)] == list(range(240, 301, 10))


def test_rules_refuse_what_is_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"'decay' parameter must be a number in the range \[0, 1\). Got 1.0"):
        Exponential(1.0)
    with pytest.raises(ValueError, match=r"'every' parameter must be an int >= 1\. Got 0"):
        Equal(0, 0)
    with pytest.raises(ValueError, match=r"'start' parameter must be an int >= 0\. Got -1"):
        Equal(-1, 1)

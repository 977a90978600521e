"""Certified training: the formulas written out, its limits, and what training by them gives."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparring
from sparring.core.gain import ClassifierGain
from sparring.core.game import play
from sparring.core.gradient import frozen
from sparring.core.payoff import margin
from sparring.core.schedule import Progress, one_cycle
from sparring.core.tools import Tools
from sparring.domains.image.data import load
from sparring.domains.image.models import build
from sparring.engine.precision import Autocast
from sparring.evaluation.certified import certified
from sparring.systems import interval, standard


def network(*norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), *norm, nn.ReLU(), nn.Linear(16, 4)).double()


def batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(12, 6, generator=rng, dtype=torch.float64)
    return x, torch.randint(0, 4, (12,), generator=rng)


def step(config: interval.Config, model: nn.Module, progress: float = 1.0, y: Tensor | None = None) -> list[Tensor]:
    """The gradient that one round of the game leaves."""
    tools = Tools(progress=Progress(progress))
    game = interval.game(config, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0), tools=tools)
    x, classes = batch()
    for _ in play(game, [(x, classes if y is None else y)]):
        pass
    return [p.grad.clone() for p in model.parameters()]


def lower_margins(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, linear: bool) -> Tensor:
    """Linear-ReLU-Linear by hand. Intervals: Gowal et al. 2018, equations 6 to 8, the last layer elided. Linear bounds:
    Zhang et al. 2018, theorem 3.2, with the lower slope 1 where u > -l and 0 elsewhere."""
    first, last = model[0], model[-1]
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    c, r = (high + low) / 2, (high - low) / 2
    middle, spread = first(c), r @ first.weight.abs().T
    least, most = middle - spread, middle + spread
    rows = last.weight[y][:, None] - last.weight[None]  # [B, K, 16]
    constant = last.bias[y][:, None] - last.bias
    if not linear:
        least, most = least.relu(), most.relu()
        up, down = rows.clamp(min=0), rows.clamp(max=0)
        return (up * least[:, None] + down * most[:, None]).sum(2) + constant
    either = (least < 0) & (most > 0)
    above = torch.where(either, most / (most - least), (least >= 0).double())
    lift = torch.where(either, -most * least / (most - least), 0.0)
    below = torch.where(either, (most > -least).double(), (least >= 0).double())
    form = torch.where(rows >= 0, rows * below[:, None], rows * above[:, None])
    constant = constant + (rows.clamp(max=0) * lift[:, None]).sum(2) + form @ first.bias
    form = form @ first.weight
    return (form * c[:, None]).sum(2) - (form.abs() * r[:, None]).sum(2) + constant


@pytest.mark.parametrize("progress", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("bound", ["ibp", "crown-ibp"])
def test_the_gradient_is_the_formulas(bound: str, progress: float) -> None:
    """kappa L(f(x), y) + (1 - kappa) L(worst logits, y), Gowal et al. 2018; with the margins beta CROWN + (1 - beta)
    IBP of Zhang et al. 2020; eps, kappa and beta linear between progress 0.1 and 0.9."""
    config = interval.Config(eps=0.1, bound=bound, kappa=0.4, beta=0.2, eps_start=0.1, eps_warmup=0.8)
    share = min((progress - 0.1) / 0.8, 1.0)
    eps, kappa, beta = 0.1 * share, 1 - 0.6 * share, 1 - 0.8 * share
    model, (x, y) = network(), batch()
    margins = lower_margins(model, x, y, eps, linear=False)
    if bound == "crown-ibp":
        margins = (1 - beta) * margins + beta * lower_margins(model, x, y, eps, linear=True)
    worst = F.cross_entropy(-margins, y)  # logits relative to that of y, which is 0 there
    loss = kappa * F.cross_entropy(model(x), y) + (1 - kappa) * worst
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for got, wanted in zip(step(config, model, progress), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
        assert wanted.abs().sum() > 1e-3


def test_kappa_one_is_standard_training() -> None:
    weights = []
    for make, config in ((interval.game, interval.Config(kappa=1.0)), (standard.game, standard.Config())):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in play(make(config, model=model, optimizer=optimizer), [batch()] * 5):
            pass
        weights.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_before_the_ramp_it_is_standard_training() -> None:
    config = interval.Config(bound="crown-ibp", eps_start=0.2, eps_warmup=0.5)
    plain = step(interval.Config(kappa=1.0), network())
    assert all(torch.equal(a, b) for a, b in zip(step(config, network(), 0.2), plain, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(step(config, network(), 0.3), plain, strict=True))


def test_a_vanishing_eps_is_standard_training() -> None:
    plain = step(interval.Config(kappa=1.0), network())
    for bound in ("ibp", "crown-ibp"):
        near = step(interval.Config(eps=1e-12, bound=bound, beta=0.5, kappa=0.0), network())
        for a, b in zip(near, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_crown_with_beta_zero_is_ibp_at_the_end() -> None:
    ibp, crown = (step(interval.Config(bound=bound), network()) for bound in ("ibp", "crown-ibp"))
    assert all(torch.equal(a, b) for a, b in zip(ibp, crown, strict=True))


def test_soft_labels_that_are_hard_train_alike() -> None:
    config = interval.Config(bound="crown-ibp", beta=0.5)
    soft = F.one_hot(batch()[1], 4).double()
    for a, b in zip(step(config, network()), step(config, network(), y=soft), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_schedules_are_linear_and_end_where_they_should() -> None:
    config = interval.Config(bound="crown-ibp", kappa=0.5, beta=0.25, eps_start=0.1, eps_warmup=0.4)
    for progress, share in ((0.0, 0.0), (0.1, 0.0), (0.3, 0.5), (0.5, 1.0), (1.0, 1.0)):
        at = interval.stage(config, progress)
        assert (at.share, at.kappa, at.beta) == pytest.approx((share, 1 - 0.5 * share, 1 - 0.75 * share))
    at_once = interval.Config(eps_start=0.0, eps_warmup=0.0)
    assert interval.stage(at_once, 0.0) == interval.Stage(1.0, 0.5, 0.0)
    late = interval.Config(eps_start=0.8, eps_warmup=0.8)  # cut off by the end, where the curriculum is complete
    assert interval.stage(late, 1.0).share == 1.0


def test_the_bounds_follow_the_statistics_that_the_clean_pass_left() -> None:
    """With BatchNorm: one training pass on x, then the bounds of the eval-mode network."""
    model, (x, y) = network(nn.BatchNorm1d(16)), batch()
    reference = copy.deepcopy(model)
    clean = F.cross_entropy(reference(x), y)
    norm = reference[1]
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    folded = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).double()
    plain = torch.func.functional_call
    weights = {
        "0.weight": scale[:, None] * reference[0].weight,
        "0.bias": scale * (reference[0].bias - norm.running_mean) + norm.bias,
        "2.weight": reference[3].weight,
        "2.bias": reference[3].bias,
    }
    low, high = (x - 0.1).clamp(0, 1), (x + 0.1).clamp(0, 1)
    c, r = (low + high) / 2, (high - low) / 2
    middle = plain(folded[0], {"weight": weights["0.weight"], "bias": weights["0.bias"]}, c)
    spread = r @ weights["0.weight"].abs().T
    least, most = (middle - spread).relu(), (middle + spread).relu()
    rows = weights["2.weight"][y][:, None] - weights["2.weight"][None]
    margins = (rows.clamp(min=0) * least[:, None] + rows.clamp(max=0) * most[:, None]).sum(2)
    margins = margins + weights["2.bias"][y][:, None] - weights["2.bias"]
    loss = 0.5 * clean + 0.5 * F.cross_entropy(-margins, y)
    expected = torch.autograd.grad(loss, list(reference.parameters()))
    for got, wanted in zip(step(interval.Config(eps=0.1), model), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_the_engines_autocast_is_looked_through() -> None:
    model = network()
    wrapped = Autocast(copy.deepcopy(model), lambda: torch.autocast("cpu", enabled=False))
    assert all(
        torch.equal(a, b) for a, b in zip(step(interval.Config(), model), step(interval.Config(), wrapped), strict=True)
    )


def test_the_payoff_is_at_least_that_of_any_attack() -> None:
    model, (x, y) = network(), batch()
    game = interval.game(interval.Config(eps=0.1), model=model)
    assert torch.equal(game.adversary.respond(model, (x, y)), x)
    bound = game.payoff(model, x, (x, y))
    z = sparring.pgd(lambda z: F.cross_entropy(model(z), y, reduction="none"), x, sparring.Linf(0.1), steps=20)
    assert (F.cross_entropy(model(z), y, reduction="none") <= bound + 1e-12).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [("threat", "l2"), ("bound", "zonotope"), ("kappa", -0.1), ("beta", 1.5), ("eps_start", 2.0), ("eps_warmup", -1.0)],
)
def test_a_bad_field_names_itself_its_range_and_its_value(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"'{field}' parameter .* Got {value!r}"):
        interval.Config(**{field: value})


def test_another_norm_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'threat' parameter must be a Linf.* Got L2\("):
        interval.game(interval.Config(), model=network(), threat=sparring.L2(0.5))


def trained(system: object, config: object) -> nn.Module:
    """Eight epochs on the digits, about a second."""
    data, progress, epochs = load("digits"), Progress(0.0), 8
    x, y = data.train.take(torch.arange(len(data.train)))
    torch.manual_seed(0)
    model = build("small-strided", data.shape, 10, data.mean, data.std)
    optimizer = torch.optim.AdamW(model.parameters())
    game = system.game(config, model=model, optimizer=optimizer, tools=Tools(progress=progress))
    rng, count = torch.Generator().manual_seed(0), len(x) // 64

    def batches():
        for epoch in range(epochs):
            order = torch.randperm(len(x), generator=rng)
            for i in range(count):
                progress.value = (epoch * count + i) / (epochs * count)
                optimizer.param_groups[0]["lr"] = 5e-3 * one_cycle(progress.value)
                yield x[order[64 * i : 64 * i + 64]], y[order[64 * i : 64 * i + 64]]

    for _ in play(game, batches()):
        pass
    return model.eval()


def test_digits_get_certificates_that_no_attack_contradicts() -> None:
    data, eps = load("digits"), 0.05
    x, y = data.test.take(torch.arange(200))
    robust, plain = trained(interval, interval.Config(eps=eps)), trained(standard, standard.Config())
    attack = partial(sparring.pgd, steps=20, early_stop=True)
    shares = []
    for model in (robust, plain):
        with frozen(model):
            gain = ClassifierGain(model, y, margin)
            _, broken = gain.judge(attack(gain, x, sparring.Linf(eps), rng=torch.Generator().manual_seed(0)))
        found = certified(model, (x, y), eps, broken=broken)  # raises where a certificate is contradicted
        assert not (found["right"] & broken).any()
        shares.append(found["accuracy"])
        assert found["accuracy"] <= (~broken).float().mean().item()
    assert shares[0] > 0.6
    assert shares[1] == 0

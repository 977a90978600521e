"""S2O against the released formula written out, its limits, and the statistics that it is named after."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core.correlation import co_movement, correlation_norm, decorrelating_targets, with_features
from sparring.core.game import play
from sparring.core.tools import Tools
from sparring.systems import mart, pgd_at, s2o, trades

B, K = 12, 5


def network() -> nn.Module:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, K))
    return model.double()


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x, y, and a move."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(B, 6, generator=rng, dtype=torch.float64)
    return x, torch.arange(B) % K, (x + 0.05 * torch.randn(B, 6, generator=rng, dtype=torch.float64)).clamp(0, 1)


def released_targets(z: Tensor, q: float) -> Tensor:
    """The released loss's matrix, element by element."""
    a = [[abs(sum(float(z[b, i] * z[b, j]) for b in range(len(z)))) for j in range(K)] for i in range(K)]
    rows = []
    for i in range(K):
        row = [max(a[i]) - a[i][j] if j != i else 0.0 for j in range(K)]
        rows.append([q if j == i else (1 - q) * row[j] / sum(row) for j in range(K)])
    return torch.tensor(rows, dtype=torch.float64)


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def descended(config: s2o.Config, model: nn.Module, z: Tensor, given: tuple[Tensor, Tensor]) -> Tensor:
    answer = s2o.objective(config)(model, z, given)
    assert isinstance(answer, tuple)
    assert answer[0].shape == (B,)
    return answer[0].mean()


@pytest.mark.parametrize(("base", "w"), [("at", 0.1), ("trades", 0.3), ("mart", 0.3)])
def test_loss_and_gradient_are_those_of_the_released_code(base: str, w: float) -> None:
    x, y, z = batch()
    ours, theirs, q, beta = network(), network(), 0.2, 6.0
    found = gradients(ours, descended(s2o.Config(base=base, weight=w, mass=q, beta=beta), ours, z, (x, y)))

    clean, attacked = theirs(x), theirs(z)
    penalty = torch.zeros((), dtype=torch.float64)
    for logits in (clean, attacked):
        t = released_targets(logits.detach(), q)[y]
        penalty = penalty + F.kl_div(logits.log_softmax(1), t, reduction="sum") / B / 2
    p_clean, p = clean.softmax(1), attacked.softmax(1)
    divergence = (p_clean * (p_clean.log() - p.log())).sum(1)
    if base == "at":
        loss = (1 - w) * F.cross_entropy(attacked, y)
    elif base == "trades":
        loss = (1 - w) * F.cross_entropy(clean, y) + beta * divergence.mean()
    else:
        rival = torch.stack([p[b][torch.arange(K) != y[b]].max() for b in range(B)])
        boosted = F.cross_entropy(attacked, y) - (1.0001 - rival).log().mean()
        own = p_clean[torch.arange(B), y]
        loss = (1 - w) * boosted + beta * (divergence * (1 - own)).mean()
    for a, b in zip(found, gradients(theirs, loss + w * penalty), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.parametrize("statistic", ["logits", "laplace", "uniform", "clean"])
def test_weight_zero_is_pgd_at_bit_for_bit(statistic: str) -> None:
    x, y, _ = batch()
    weights = []
    for system, config in ((s2o, s2o.Config(weight=0.0, statistic=statistic)), (pgd_at, pgd_at.Config())):
        model = network()
        tools = Tools(rng=torch.Generator().manual_seed(3))
        game = system.game(config, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), tools=tools)
        list(play(game, [(x, y)] * 4))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("base", ["trades", "mart"])
def test_weight_zero_is_the_base_bit_for_bit(base: str) -> None:
    x, y, _ = batch()
    theirs = (trades, trades.Config(beta=2.0)) if base == "trades" else (mart, mart.Config(weight=2.0))
    weights = []
    for system, config in ((s2o, s2o.Config(base=base, weight=0.0, beta=2.0)), theirs):
        model = network()
        tools = Tools(rng=torch.Generator().manual_seed(3))
        game = system.game(config, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), tools=tools)
        list(play(game, [(x, y)] * 4))
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_uniform_is_label_smoothing_and_clean_is_cross_entropy() -> None:
    x, y, z = batch()
    w, q = 0.4, 0.7
    ours, theirs = network(), network()
    found = gradients(ours, descended(s2o.Config(statistic="uniform", weight=w, mass=q), ours, z, (x, y)))
    clean, attacked = theirs(x), theirs(z)
    smooth = {"label_smoothing": (1 - q) * K / (K - 1)}  # torch spreads over all classes, the true one too
    loss = (1 - w) * F.cross_entropy(attacked, y)
    loss = loss + w / 2 * (F.cross_entropy(clean, y, **smooth) + F.cross_entropy(attacked, y, **smooth))
    for a, b in zip(found, gradients(theirs, loss), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)

    ours, theirs = network(), network()
    found = gradients(ours, descended(s2o.Config(statistic="clean", weight=w), ours, z, (x, y)))
    loss = w / 2 * F.cross_entropy(theirs(x), y)
    loss = loss + (1 - w) * F.cross_entropy(theirs(z), y)
    for a, b in zip(found, gradients(theirs, loss), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


@pytest.mark.parametrize("base", ["at", "trades"])
def test_laplace_is_added_to_the_whole_fit(base: str) -> None:
    x, y, z = batch()
    w = 0.4
    ours, theirs = network(), network()
    config = s2o.Config(base=base, statistic="laplace", weight=w, beta=2.0)
    found = gradients(ours, descended(config, ours, z, (x, y)))
    (clean, entering), (attacked, features) = (with_features(theirs, each) for each in (x, z))
    fit = F.cross_entropy(attacked, y)
    if base == "trades":
        divergence = F.kl_div(attacked.log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True)
        fit = F.cross_entropy(clean, y) + 2.0 * divergence
    loss = fit + w / 2 * (correlation_norm(entering, clean) + correlation_norm(features, attacked))
    for a, b in zip(found, gradients(theirs, loss), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_logits_that_move_alike_give_even_targets() -> None:
    together = torch.full((K, K), 2.0, dtype=torch.float64).fill_diagonal_(9.0)
    torch.testing.assert_close(decorrelating_targets(together, 0.2), s2o.uniform_targets(K, 0.2).double())
    torch.testing.assert_close(
        decorrelating_targets(torch.zeros(K, K, dtype=torch.float64), 0.2), s2o.uniform_targets(K, 0.2).double()
    )


def test_targets_are_distributions_that_prefer_what_moves_least_and_follow_a_renaming_of_classes() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(20, K, generator=rng, dtype=torch.float64)
    together = co_movement(logits)
    t = decorrelating_targets(together, 0.3)
    torch.testing.assert_close(t.sum(1), torch.ones(K, dtype=torch.float64))
    assert (t >= 0).all()
    assert torch.equal(t.diagonal(), torch.full((K,), 0.3, dtype=torch.float64))
    for i in range(K):
        others = [j for j in range(K) if j != i]
        assert sorted(others, key=lambda j: together[i, j]) == sorted(others, key=lambda j: -t[i, j])
    order = torch.randperm(K, generator=rng)
    renamed = decorrelating_targets(co_movement(logits[:, order]), 0.3)
    torch.testing.assert_close(renamed, t[order][:, order])


def test_the_targets_carry_no_gradient() -> None:
    x, y, z = batch()
    model = network()
    config = s2o.Config(weight=0.5)
    found = gradients(model, descended(config, model, z, (x, y)))
    other = network()
    clean, attacked = other(x), other(z)
    fixed = [decorrelating_targets(co_movement(each), config.mass).detach() for each in (clean, attacked)]
    loss = 0.5 * F.cross_entropy(attacked, y)
    for logits, t in zip((clean, attacked), fixed, strict=True):
        loss = loss + 0.25 * s2o.away_from(logits, t, y).mean()
    for a, b in zip(found, gradients(other, loss), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def kronecker_by_hand(features: Tensor, logits: Tensor, damping: float) -> float:
    """The norm from the whole d K x d K matrix, without using that it factors."""
    p = logits.softmax(1)
    a = features.T @ features / len(features)
    h = sum(torch.diag(row) - torch.outer(row, row) for row in p) / len(p)
    a = a + damping * a.diagonal().mean() * torch.eye(len(a), dtype=a.dtype)
    h = h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype)
    covariance = torch.linalg.inv(torch.kron(a, h))
    scale = covariance.diagonal().rsqrt()
    return float((scale[:, None] * covariance * scale).norm() / math.sqrt(len(covariance)))


def test_the_correlation_norm_is_that_of_the_whole_kronecker_product() -> None:
    rng = torch.Generator().manual_seed(2)
    features = torch.rand(30, 4, generator=rng, dtype=torch.float64)
    logits = torch.randn(30, 3, generator=rng, dtype=torch.float64)
    for damping in (1e-3, 0.1):
        assert correlation_norm(features, logits, damping).item() == pytest.approx(
            kronecker_by_hand(features, logits, damping), rel=1e-9
        )


def test_independent_features_and_two_way_symmetric_answers_have_the_least_norm() -> None:
    orthogonal = torch.eye(6, dtype=torch.float64)
    certain = 50 * torch.eye(6, dtype=torch.float64)  # p p^T is diag(p) there: nothing moves together but the damping
    assert correlation_norm(orthogonal, torch.zeros(6, 1, dtype=torch.float64)).item() == pytest.approx(1.0, abs=1e-9)
    one = correlation_norm(orthogonal, certain).item()
    alike = correlation_norm(orthogonal + 1.0, certain).item()
    assert one >= 1 - 1e-9
    assert alike > one  # a common mean makes features move together


def test_the_correlation_norm_differentiates() -> None:
    rng = torch.Generator().manual_seed(2)
    features = torch.rand(9, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(9, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(correlation_norm, (features, logits))


def test_descending_laplace_lowers_the_norm() -> None:
    """The weight of the term decides: the same start and batches, with and without."""
    norms = {}
    for w in (0.0, 0.9):
        x, y, _ = batch()
        model = network()
        config = s2o.Config(statistic="laplace", weight=w, eps=0.02, steps=2)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        tools = Tools(rng=torch.Generator().manual_seed(3))
        game = s2o.game(config, model=model, optimizer=optimizer, tools=tools)
        told = list(play(game, [(x, y)] * 60))
        norms[w] = told[-1]["correlation"].item()
    assert norms[0.9] < 0.8 * norms[0.0]


def test_one_forward_pass_for_each_image_and_its_features() -> None:
    x, y, z = batch()
    model = network()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    descended(s2o.Config(weight=0.1), model, z, (x, y))
    assert len(calls) == 2
    logits, features = with_features(model, x)
    torch.testing.assert_close(model[-1](features), logits)
    calls.clear()
    descended(s2o.Config(weight=0.0), model, z, (x, y))
    assert len(calls) == 1


def test_a_model_without_a_linear_head_is_refused() -> None:
    with pytest.raises(ValueError, match="end in a linear layer"):
        with_features(nn.Flatten(), torch.rand(2, 3))


@pytest.mark.parametrize(
    "changes", [{"base": "sgd"}, {"statistic": "weights"}, {"weight": 1.0}, {"mass": 0.0}, {"beta": -1.0}]
)
def test_config_refuses_what_is_outside(changes: dict[str, object]) -> None:
    (name,) = changes
    with pytest.raises(ValueError, match=f"The '{name}' parameter must be"):
        s2o.Config(**changes)  # type: ignore[arg-type]


def test_trades_as_base_needs_its_random_start() -> None:
    with pytest.raises(ValueError, match="random_start"):
        s2o.Config(base="trades", random_start=False)
    s2o.Config(base="mart", random_start=False)


def test_soft_labels_are_read_as_their_class_by_the_targets() -> None:
    x, y, z = batch()
    ours, theirs = network(), network()
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    one_hot = F.one_hot(y, K).double()
    a = descended(s2o.Config(), ours, z, (x, y))
    b = descended(s2o.Config(), theirs, z, (x, one_hot))
    torch.testing.assert_close(a, b)

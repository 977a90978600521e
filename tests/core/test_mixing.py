"""Partners of the same class, and draws from a Beta distribution."""

import pytest
import torch

from sparring.core.mixing import beta, same_class_partners


def test_partners_are_a_permutation_within_each_class() -> None:
    y = torch.tensor([3, 1, 3, 0, 1, 3, 7, 1, 3])
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        partners = same_class_partners(y, rng)
        assert torch.equal(y[partners], y)
        assert partners.sort().values.tolist() == list(range(len(y)))


def test_every_member_of_a_class_is_as_likely_a_partner() -> None:
    y = torch.tensor([0, 1, 0, 1, 0])
    rng = torch.Generator().manual_seed(0)
    counts = torch.zeros(5, 5)
    for _ in range(3000):
        counts[torch.arange(5), same_class_partners(y, rng)] += 1
    share = counts / 3000
    assert (share[0, [0, 2, 4]] - 1 / 3).abs().max() < 0.04  # 4.6 standard errors of a binomial share
    assert (share[1, [1, 3]] - 1 / 2).abs().max() < 0.04
    assert share[0, [1, 3]].sum() == 0


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
def test_beta_has_its_moments_and_its_distribution(alpha: float) -> None:
    n = 20_000
    draws = beta(alpha, torch.zeros(n, dtype=torch.float64), torch.Generator().manual_seed(1))
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(draws.mean().item() - 0.5) < 5 * (variance / n) ** 0.5
    assert draws.var().item() == pytest.approx(variance, rel=0.03)
    reference = torch.distributions.Beta(alpha, alpha)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        others = reference.sample((n,)).double()
    grid = torch.tensor([1e-4, 1e-2, 0.1, 0.3, 0.5, 0.8, 0.99], dtype=torch.float64)
    ours = (draws[:, None] <= grid).double().mean(0)
    theirs = (others[:, None] <= grid).double().mean(0)
    assert (ours - theirs).abs().max() < 5 * (0.5 / n) ** 0.5


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1.5])
def test_beta_refuses_what_the_rejection_does_not_cover(alpha: float) -> None:
    with pytest.raises(ValueError, match="'alpha' parameter"):
        beta(alpha, torch.zeros(2), None)

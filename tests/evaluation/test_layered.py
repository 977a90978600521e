"""Two layers at one total rate of false alarms: the identities of an "or", and thresholds that are exact."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring.evaluation.detection import threshold_at
from sparring.evaluation.layered import SHARES, Case, Layered, split, thresholds


def scores(seed: int, n: int = 1000) -> tuple[Tensor, Tensor]:
    """Of two layers that know some of each other's mind."""
    rng = torch.Generator().manual_seed(seed)
    first = torch.rand(n, generator=rng, dtype=torch.float64)
    return first, 0.3 * first + torch.rand(n, generator=rng, dtype=torch.float64)


def test_detection_and_false_alarms_follow_the_identities_of_an_or() -> None:
    """DR = DR1 + (1 - DR1) P(r > t2 | missed), and the same of false alarms; each row has one layer that decided."""
    at = Layered(0.8, 1.0, 0.5)
    for seed in range(3):
        first, second = scores(seed)
        called, alone = at.called(first, second), first > 0.8
        behind = second[~alone] > 1.0
        own, rest = alone.double().mean(), behind.double().mean()
        assert called.double().mean().item() == pytest.approx((own + (1 - own) * rest).item(), abs=1e-12)
        decided = at.decided(first, second)
        assert torch.equal(decided > 0, called)
        assert torch.equal(decided == 1, alone)
        assert (called | ~alone).all(), "a second layer never takes an alarm back"


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 400),
    rate=st.sampled_from((0.0, 0.01, 0.05, 0.29, 0.5)),
    share=st.sampled_from(SHARES),
    seed=st.integers(0, 50),
    levels=st.sampled_from((3, 40, 10**9)),
)
def test_the_total_rate_is_never_exceeded_and_met_without_ties(
    n: int, rate: float, share: float, seed: int, levels: int
) -> None:
    first, second = ((levels * each).floor() / levels for each in scores(seed, n))
    at = thresholds(first, second, rate, share)
    allowed = int(n * rate + 1e-9)
    called = at.called(first, second)
    assert int(called.sum()) <= allowed
    assert int((first > at.first).sum()) <= round(allowed * share)
    if levels == 10**9:
        assert int(called.sum()) == allowed
        assert int((first > at.first).sum()) == round(allowed * share)


def test_by_hand() -> None:
    """Ten benign rows, three of which may be called: one by the first layer, then two of the others by the second."""
    first = torch.tensor([9, 8, 7, 6, 5, 4, 3, 2, 1, 0.0])
    second = torch.tensor([9, 0, 1, 2, 3, 4, 5, 6, 7, 8.0])
    at = thresholds(first, second, 0.3, 1 / 3)
    assert at.called(first, second).nonzero().squeeze(1).tolist() == [0, 8, 9]
    assert 8 <= at.first < 8.001
    assert 6 <= at.second < 6.001  # the row that is best of the second layer has been called by the first


def test_with_all_of_the_budget_the_first_layer_stands_where_it_would_alone() -> None:
    first, second = scores(4)
    at = thresholds(first, second, 0.05, 1.0)
    assert at.first == threshold_at(first, 0.05)
    assert int((first > at.first).sum()) == 50
    assert not (second[first <= at.first] > at.second).any()


def test_the_split_detects_most_on_its_cases_and_leaves_ties_to_the_first_layer() -> None:
    benign, sets = scores(0), (scores(1, 200), scores(2, 300))
    malicious = tuple((first + 0.1, second + 0.4) for first, second in sets)
    case = Case(benign, malicious)

    def detected(share: float) -> float:
        at = thresholds(*benign, 0.05, share)
        return sum(float(at.called(*rows).double().mean()) for rows in malicious) / 2

    best = split([case], 0.05)
    assert detected(best) == pytest.approx(max(detected(share) for share in SHARES), abs=1e-12)
    assert best < 1, "the second layer knows more here"
    blind = Case(benign, ((torch.full((5,), -1.0).double(), torch.full((5,), -1.0).double()),))
    assert split([blind], 0.05) == 1.0
    assert split([case, blind], 0.05) == best


def test_bad_arguments_are_named() -> None:
    first, second = scores(0, 10)
    with pytest.raises(ValueError, match=r"'share' parameter must be a number in the range \[0, 1\]. Got 1.5"):
        thresholds(first, second, 0.1, 1.5)
    with pytest.raises(ValueError, match="must be of one shape"):
        thresholds(first, second[:5], 0.1, 0.5)
    with pytest.raises(ValueError, match="'false_positives' parameter"):
        thresholds(first, second, 1.0, 0.5)
    with pytest.raises(ValueError, match="needs cases"):
        split([], 0.1)

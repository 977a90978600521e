"""Attacks on one rival at a time."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks.apgd import apgd
from sparring.attacks.targeted import targeted
from sparring.core.attack import Attack
from sparring.core.counting import Counted, Meter
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import cross_entropy, dlr_towards, margin, margin_towards
from sparring.core.standing import DeadStartError
from sparring.core.threat import L1, L2, Linf, Threat

FAR: list[Any] = [Linf(0.03, -9, 9), L2(0.1, -9, 9), L1(0.2, -9, 9)]
DUAL = (1, 2, float("inf"))


def several(classes: int, seed: int = 0, n: int = 10, batch: int = 30) -> tuple[nn.Linear, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    model = nn.Linear(n, classes).double().requires_grad_(False)
    model.weight.copy_(torch.randn((classes, n), generator=rng))
    model.bias.copy_(-0.5 * model.weight.sum(1))  # all logits meet in the middle of the box
    x = torch.rand((batch, n), generator=rng, dtype=torch.float64)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize(("threat", "dual"), list(zip(FAR, DUAL, strict=True)), ids=["linf", "l2", "l1"])
def test_all_rivals_of_a_linear_model_give_its_exact_robustness(
    classes: int, threat: Any, dual: float, rng: torch.Generator
) -> None:
    """max over z of max over k of the margin is the maximum over k of each linear margin's own maximum."""
    model, x, y = several(classes)
    w = model.weight[None] - model.weight[y][:, None]
    ahead = ClassifierGain(model, y, margin).rivals(x) + threat.eps * torch.linalg.vector_norm(w, ord=dual, dim=2)
    exact = ahead.amax(1)
    assert 0 < (exact > 0).sum() < len(x)
    for pull in (margin_towards, dlr_towards) if classes >= 4 else (margin_towards,):
        gain = ClassifierGain(model, y, margin, pull=pull)
        z = targeted(partial(apgd, steps=25))(gain, x, threat, rng=rng)
        assert threat.contains(z, x).all()
        assert torch.equal(gain.judge(z)[1], exact > 0)
        stands = exact <= 0
        if pull is margin_towards:
            torch.testing.assert_close(gain(z)[stands], exact[stands], rtol=0, atol=1e-5)
        assert (gain(z) <= exact + 1e-9).all()


def test_rivals_are_taken_in_their_order_at_the_clean_input(rng: torch.Generator) -> None:
    model, x, y = several(5)
    gain = ClassifierGain(model, y, margin)
    targets: list[Tensor] = []

    def spy(gain: Any, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:
        targets.append(gain.target)
        return x

    targeted(spy, count=3)(gain, x, FAR[0])
    torch.testing.assert_close(torch.stack(targets, 1), gain.rivals(x).argsort(1, descending=True)[:, :3])
    targets.clear()
    targeted(spy)(gain, x, FAR[0])
    assert len(targets) == 4  # K - 1, not nine
    targets.clear()
    targeted(spy)(ClassifierGain(model, y, margin, abstain=0), x, FAR[0])
    assert all((target != 0).all() for target in targets)
    first = torch.stack([t for t in targets if len(t) == len(x)], 1)
    assert not (first == y[:, None]).any()


def test_lost_examples_cost_nothing_further(rng: torch.Generator) -> None:
    model, x, y = several(4)
    y = torch.where(torch.arange(len(y)) < 3, (y + 1) % 4, y)  # the first three are lost at x
    meter = Meter.of(len(x))
    gain = Counted(ClassifierGain(model, y, margin), meter)
    z = targeted(partial(apgd, steps=10, early_stop=True), count=3)(gain, x, Linf(0.03, -9, 9), rng=rng)
    lost = gain.gain.judge(z)[1]
    assert torch.equal(z[:3], x[:3])
    assert (meter.forwards[:3] == 2).all()  # the rivals and the verdict
    assert (meter.forwards[~lost] == 2 + 3 * (11 + 1)).all()
    assert (meter.forwards[3:][lost[3:]] < 2 + 3 * 12).all()
    assert lost[3:].any()
    assert (~lost).any()


def test_who_one_rival_has_beaten_is_not_given_to_the_next() -> None:
    model, x, y = several(4)
    gain = ClassifierGain(model, y, margin)
    given: list[Tensor] = []

    def attack(gain: Any, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:
        given.append(x)
        return apgd(gain, x, threat, steps=5, rng=torch.Generator().manual_seed(len(given)))

    z = targeted(attack, count=1)(gain, x, FAR[0])
    beaten = gain.judge(z)[1]
    assert 0 < beaten.sum() < len(x)
    given.clear()
    again = targeted(attack, count=2)(gain, x, FAR[0])
    assert [len(part) for part in given] == [len(x), int((~beaten).sum())]
    assert torch.equal(given[1], x[~beaten])
    assert torch.equal(again[beaten], z[beaten])


def test_the_best_by_the_gain_itself_is_kept() -> None:
    """The second rival's pull is higher, the gain is not: the first place's point stays."""
    model, x, y = several(3)
    gain = ClassifierGain(model, y, cross_entropy)
    places = iter([0.02, -0.02])

    def shift(gain: Any, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:
        return x + next(places)

    z = targeted(shift, count=2)(gain, x, Linf(0.1, -9, 9))
    candidates = torch.stack([gain(x), gain(x + 0.02), gain(x - 0.02)])
    assert len(candidates.argmax(0).unique()) >= 2
    stands = ~gain.judge(x + 0.02)[1]
    torch.testing.assert_close(gain(z)[stands], candidates.amax(0)[stands])


def test_a_rival_without_gradient_does_not_end_the_others() -> None:
    model, x, y = several(3)
    gain = ClassifierGain(model, y, margin)

    def dying(*alive: bool) -> Attack:
        calls = iter(alive)

        def attack(gain: Any, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:
            if not next(calls):
                raise DeadStartError("nothing to follow")
            return apgd(gain, x, threat, steps=3, rng=rng)

        return attack

    for alive in ((True, False), (False, True)):
        z = targeted(dying(*alive))(gain, x, FAR[1])
        assert (gain(z) > gain(x)).any()
    with pytest.raises(DeadStartError, match="towards any rival"):
        targeted(dying(False, False))(gain, x, FAR[1])


def test_it_repeats_and_takes_batches_of_none_and_one(curved: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    attack = targeted(partial(apgd, steps=5, early_stop=True), count=2)
    for n in (0, 1, len(x)):
        gain = ClassifierGain(curved, y[:n], cross_entropy, pull=dlr_towards)
        z, again = (attack(gain, x[:n], Linf(0.02), rng=torch.Generator().manual_seed(4)) for _ in range(2))
        assert torch.equal(z, again)
        assert z.shape == x[:n].shape
        assert not z.requires_grad


def test_what_it_cannot_do_it_says() -> None:
    with pytest.raises(ValueError, match=r"'count' parameter must be an int in the range \[1, inf\). Got 0"):
        targeted(apgd, count=0)
    blind: Any = lambda z: z.sum(1)  # noqa: E731
    with pytest.raises(TypeError, match=r"'rivals' and 'towards'.*Got function"):
        targeted(apgd)(blind, torch.rand(2, 3), Linf(0.1))


def test_a_target_that_is_the_true_class_is_refused(curved: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    _, y = images
    rivals = (y + 1) % 5
    rivals[3] = y[3]
    with pytest.raises(ValueError, match=rf"another class than the true one. Got {int(y[3])} for example 3"):
        ClassifierGain(curved, y, margin).towards(rivals)

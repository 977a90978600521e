"""Each check on a case made for it, where it has to fail and where it has to pass."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from defences import Dropping, Probabilities, Scaled, bit_depth
from exhibits import COUNT, LINF, REFUSAL, Museum
from torch import Tensor, nn

from sparring.core.compose import Masked
from sparring.core.payoff import cross_entropy, margin
from sparring.core.threat import Threat
from sparring.evaluation import probes, sanity
from sparring.evaluation.evaluate import evaluate
from sparring.evaluation.exploit import Exploit, exploit
from sparring.evaluation.grids import Bench
from sparring.evaluation.subject import Subject, subject
from sparring.evaluation.suite import Suite, pgd_challenge, square_challenge, targeted_challenge


class Also(nn.Module):
    """A model with something done to its input or its output."""

    def __init__(self, inner: nn.Module, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner(self.before(x)))


class Misled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * upstream[0], None


def bench(museum: Museum, model: nn.Module, threat: Threat = LINF, count: int = 60, **rest: Any) -> Bench:
    made = subject(model, tuple(t[:count] for t in museum.test), **rest)
    return Bench(made, threat, seed=0, count=count, watch=lambda stage: lambda share: None, ledger=None)


def idle(made: Subject) -> Exploit:
    """What an attack achieves that does nothing."""
    challenge = replace(pgd_challenge("idle", LINF, margin, steps=1), attack=lambda gain, x, threat, *, rng: x.clone())
    return exploit(made, LINF, challenge, seed=0)


def verdict(check: sanity.Check) -> str:
    return check["verdict"]


def enumerated(hits: int, n: int, share: float) -> float:
    return sum(math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(hits, n + 1))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.25, 0.5])
@pytest.mark.parametrize("n", [0, 1, 7, 100])
def test_surely_is_the_exact_binomial_test(n: int, share: float) -> None:
    for hits in range(n + 1):
        assert sanity.surely(hits, n, share) == (enumerated(hits, n, share) < 0.025)


def test_what_is_sure_takes_more_than_the_share_itself() -> None:
    assert not sanity.surely(3, 100, 0.01)
    assert sanity.surely(4, 100, 0.01)
    assert not sanity.surely(100, 10_000, 0.01)
    assert sanity.surely(150, 10_000, 0.01)


@pytest.mark.parametrize("factor", [10.0, 0.1, -1.0, 0.0])
def test_a_wrong_gradient_has_another_slope(museum: Museum, factor: float) -> None:
    wrong = bench(museum, Also(museum.plain(), before=lambda x: Misled.apply(x, factor)))
    right = bench(museum, Also(museum.plain(), before=lambda x: Misled.apply(x, 1.0)))
    assert verdict(probes.finite_differences(wrong, 0.0, 1.0)) == "fail"
    assert verdict(probes.finite_differences(right, 0.0, 1.0)) == "pass"


def test_the_slope_is_measured_inside_the_box(museum: Museum) -> None:
    """Two thirds of these pixels are at its edge, and beyond it the model does as it likes."""
    folded = bench(museum, Also(museum.plain(), before=lambda x: x - 3 * (x - x.clamp(0, 1)).detach()))
    assert verdict(probes.finite_differences(folded, 0.0, 1.0)) == "pass"
    assert verdict(probes.finite_differences(folded, -1.0, 2.0)) == "fail"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_rounding_to_half_precision_leaves_the_slope_recognisable(museum: Museum, dtype: torch.dtype) -> None:
    converted = bench(museum, copy.deepcopy(museum.plain()).to(dtype))
    assert verdict(probes.finite_differences(converted, 0.0, 1.0)) == "pass"


def test_the_slope_does_not_depend_on_the_size_of_batches(museum: Museum) -> None:
    figures = {
        probes.finite_differences(bench(museum, museum.plain(), batch_size=size), 0.0, 1.0)["figure"]
        for size in (7, 256)
    }
    assert len(figures) == 1


def test_jumps_are_no_slope(museum: Museum) -> None:
    """Rounding whose backward pass is the identity's: right on average, wrong at every step shorter than a level."""
    rounded = bench(museum, Also(museum.plain(), before=lambda x: x + (bit_depth(x) - x).detach()))
    assert verdict(probes.finite_differences(rounded, 0.0, 1.0)) == "fail"


def test_noise_that_beats_what_stood_is_a_finding(museum: Museum) -> None:
    rattled = bench(museum, museum.plain(), LINF.scaled(4))
    clean = rattled.some.clean_right
    assert verdict(probes.random_noise(rattled, clean)) == "fail"
    assert verdict(probes.random_noise(rattled, torch.zeros_like(clean))) == "pass"
    assert verdict(probes.random_noise(bench(museum, museum.plain()), clean)) == "pass"


def test_a_run_that_misses_what_others_find_is_a_finding(museum: Museum) -> None:
    fragile = bench(museum, museum.plain())
    nothing, found = idle(fragile.some), probes.single(fragile)
    clean = fragile.some.clean_right
    assert verdict(probes.restarts(fragile, nothing)) == "fail"
    assert verdict(probes.restarts(fragile, found)) == "pass"
    assert verdict(probes.attacks_agree(fragile, nothing, found.right)) == "fail"
    assert verdict(probes.attacks_agree(fragile, found, found.right)) == "pass"
    assert verdict(probes.attacks_agree(fragile, nothing, clean)) == "pass"  # nobody found anything


def test_cross_entropy_that_sees_nothing_is_a_finding(museum: Museum) -> None:
    assert verdict(probes.losses(bench(museum, Scaled(museum.plain())))) == "fail"
    assert verdict(probes.losses(bench(museum, museum.plain()))) == "pass"


def rounding(x: Tensor) -> Tensor:
    return bit_depth(x)


@pytest.mark.parametrize("masked", [False, True])
def test_what_falls_without_gradients_only_is_a_finding(museum: Museum, masked: bool) -> None:
    """With Square on a ball; with random points on a threat model that is none, where they find less."""
    threat: Threat = Masked(LINF.scaled(3), torch.ones(1, 1, 8, 8)) if masked else LINF
    hidden = bench(museum, Also(museum.plain(), before=rounding), threat)
    plain = bench(museum, museum.plain(), threat)
    white = exploit(plain.some, threat, targeted_challenge("targeted", threat, 10, steps=20, count=5), seed=0).right
    assert verdict(probes.black_box(hidden, hidden.some.clean_right, None)) == "fail"
    assert verdict(probes.black_box(plain, white, None)) == "pass"


def test_the_suites_own_black_box_attack_is_judged_on_what_stood_before_it(museum: Museum) -> None:
    plain = bench(museum, museum.plain())
    clean = plain.some.clean_right
    found = exploit(plain.some, LINF, square_challenge("square", queries=100), seed=0)
    assert found.right.sum() < clean.sum() - 10
    assert verdict(probes.black_box(plain, clean, found)) == "fail"
    assert verdict(probes.black_box(plain, found.right, found)) == "pass"


def ordered(*names: str) -> Suite:
    """Square and PGD in some order, each on what the ones before it left standing."""
    made = {
        "pgd": targeted_challenge("pgd", LINF, 10, steps=20, count=5),
        "square": square_challenge("square", queries=100),
        "again": pgd_challenge("again", LINF, cross_entropy, steps=20),
    }
    return Suite("ordered", tuple(made[name] for name in names), grid=60)


@pytest.mark.parametrize("order", [("square",), ("square", "pgd"), ("pgd", "square", "again"), ("pgd",)])
def test_the_place_of_the_black_box_attack_neither_hides_nor_makes_a_finding(
    museum: Museum, order: tuple[str, ...]
) -> None:
    """What comes after it never sees what it won. Where no attack with gradients came before it, there is nothing to
    compare it with; that one with gradients alone fails where the suite does not is seen all the same."""
    data = tuple(t[:60] for t in museum.test)
    for model, expected in ((museum.plain(), "pass"), (Also(museum.plain(), before=rounding), "fail")):
        checks = evaluate(model, data, threat=LINF, suite=ordered(*order)).checks
        found = {check["name"]: verdict(check) for check in checks}
        assert found.get("black-box") == (None if order[0] == "square" else expected)
        assert found["attacks-agree"] == (expected if "square" in order else "pass")


def test_what_falls_to_another_models_inputs_is_a_finding(museum: Museum) -> None:
    hidden = bench(museum, Also(museum.plain(), before=rounding))
    plain = bench(museum, museum.plain())
    assert verdict(probes.transfer(hidden, hidden.some.clean_right, museum.plain(1))) == "fail"
    assert verdict(probes.transfer(plain, probes.single(plain).right, museum.plain(1))) == "pass"


def test_a_surrogate_need_not_refuse_nor_be_of_the_same_dtype(museum: Museum) -> None:
    guarded = bench(museum, museum.guarded, abstain=REFUSAL)
    surrogate = museum.plain(1)
    for other in (surrogate, museum.guarded, copy.deepcopy(surrogate).double(), copy.deepcopy(surrogate).bfloat16()):
        assert verdict(probes.transfer(guarded, torch.zeros(60, dtype=torch.bool), other)) == "pass"
        assert verdict(probes.transfer(guarded, guarded.some.clean_right, other)) == "fail"


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (None, "pass"),
        (lambda logits: logits.softmax(1), "fail"),
        (lambda logits: logits.log_softmax(1), "pass"),  # a shift of the logits: no gradient suffers
        (lambda logits: logits.sigmoid(), "pass"),
    ],
)
def test_probabilities_are_told_from_logits(museum: Museum, after: Any, expected: str) -> None:
    assert verdict(probes.logits(bench(museum, Also(museum.plain(), after=after)).some)) == expected
    assert verdict(probes.logits(bench(museum, Probabilities(museum.plain())).some)) == "fail"


def test_answers_at_random_are_a_finding_unless_the_suite_is_made_for_them(museum: Museum) -> None:
    torch.manual_seed(0)
    lottery = bench(museum, Also(museum.plain(), before=Dropping())).some
    assert verdict(probes.deterministic(lottery, random_suite=False)) == "fail"
    assert verdict(probes.deterministic(lottery, random_suite=True)) == "pass"
    assert verdict(probes.deterministic(bench(museum, museum.plain()).some, random_suite=False)) == "pass"


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (lambda logits: logits.round(), "fail"),
        (lambda logits: logits.detach() + 0 * logits, "fail"),
        (lambda logits: torch.where(logits > 0, logits, torch.nan * logits), "fail"),
        (lambda logits: 3 * logits, "pass"),
    ],
)
def test_a_gradient_has_to_be_there(museum: Museum, after: Callable[[Tensor], Tensor], expected: str) -> None:
    made = bench(museum, museum.plain()).some
    altered = replace(made, model=Also(museum.plain(), after=after))
    assert verdict(probes.gradient_alive(altered, {})) == expected


def test_a_few_confident_examples_without_a_start_are_no_finding(museum: Museum) -> None:
    """The last chunk of the data may be one input that a good model is too sure of."""
    made = bench(museum, museum.plain()).some
    found = idle(made)
    assert verdict(probes.gradient_alive(made, {"few": replace(found, dead=5)})) == "pass"
    assert verdict(probes.gradient_alive(made, {"many": replace(found, dead=30)})) == "fail"


def test_a_single_standing_example_says_little_about_whether_the_loss_rises(museum: Museum) -> None:
    made = bench(museum, museum.plain()).some
    clean_loss = cross_entropy(made.logits, made.y)
    found = idle(made)  # its loss rose nowhere
    one = torch.arange(60) == int(made.clean_right.nonzero()[0])
    assert verdict(sanity.loss_rose(clean_loss, made.clean_right, {"idle": found})) == "fail"
    assert verdict(sanity.loss_rose(clean_loss, made.clean_right, {"idle": replace(found, right=one)})) == "pass"
    risen = replace(found, loss=found.loss + 1)
    assert verdict(sanity.loss_rose(clean_loss, made.clean_right, {"risen": risen})) == "pass"


def test_an_output_that_is_no_label_may_not_take_most_of_the_losses(museum: Museum) -> None:
    """The detector refuses noise from four times as far, and nobody said that its last output is a refusal."""
    x, y = museum.test
    made, lost = subject(museum.guarded, museum.test), torch.zeros(COUNT, dtype=torch.bool)
    noise = LINF.scaled(4).sample(x, torch.Generator().manual_seed(0))
    assert (made.predict(noise).argmax(1) == REFUSAL).all()
    assert verdict(probes.labels(made, noise, lost)) == "fail"
    assert verdict(probes.labels(made, x, lost)) == "pass"
    assert verdict(probes.labels(made, noise, ~lost)) == "pass"  # nothing was lost
    assert verdict(probes.labels(replace(made, abstain=REFUSAL), noise, lost)) == "pass"  # it was said
    few = subject(museum.guarded, (x[:60], y[:60]))
    assert verdict(probes.labels(few, noise[:60], lost[:60])) == "pass"  # a class may be missing by chance
    some = torch.where(y < 9, y, 0)
    two = subject(museum.guarded, (x, some))  # as in a test set that is not about every class
    assert verdict(probes.labels(two, noise, lost)) == "pass"

"""Checks that run something of their own: small attacks and measurements whose only use is to unmask a defence.

Each returns a named verdict with its figure and what to do (`sparring.evaluation.sanity.check`). They use the first
`count` examples of a `Bench`; what they cost is a small share of the attacks.
"""

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from sparring.attacks.square import square
from sparring.core.attack import Attack, best_of
from sparring.core.gain import ClassifierGain, Gain
from sparring.core.gradient import frozen, value_and_gradient
from sparring.core.payoff import cross_entropy, margin
from sparring.core.seeds import derive
from sparring.core.threat import L1, L2, Linf, Threat
from sparring.evaluation.exploit import Challenge, Exploit
from sparring.evaluation.grids import Bench
from sparring.evaluation.sanity import SLACK, Check, check, surely
from sparring.evaluation.subject import Subject, subject
from sparring.evaluation.suite import apgd_challenge, pgd_challenge

RUGGED = 0.25
"""The share of what stronger attacks beat that one run of APGD may miss: up to 0.2 on honest models (most in L1), from
0.4 where the loss is rugged."""

BLIND = 0.5
"""The share of what the margin beats that cross-entropy may miss: up to 0.45 on honest models (TRADES), nearly all of
it where the softmax saturates."""

KINKED = 0.05
"""The share of points where the margin's slope may not be its gradient: kinks inside the step, one in a hundred."""


def deterministic(subject: Subject, *, random_suite: bool) -> Check:
    """The same input gets the same answer twice."""
    rows = slice(0, 200)
    first, second = subject.predict(subject.x[rows]), subject.predict(subject.x[rows])
    scale = first.abs().amax().clamp(min=1e-12)
    change = ((first - second).abs().amax() / scale).item()
    flips = (first.argmax(1) != second.argmax(1)).double().mean().item()
    return check(
        "deterministic",
        change < 1e-4 or random_suite,
        f"answers to the same input differ by {change:.2g} of the largest logit; {flips:.1%} change class",
        "The model answers at random, so one draw says little and single-draw gradients are noise. Use --suite rand, "
        "which attacks the mean of many draws.",
    )


def logits(subject: Subject) -> Check:
    """The model answers with logits, not with probabilities."""
    answer = subject.logits
    share = bool(answer.min() > -1e-5 and answer.max() < 1 + 1e-5 and ((answer.sum(1) - 1).abs() < 1e-5).all())
    spread = (answer.amax(1) - answer.amin(1)).median().item()
    return check(
        "logits",
        not share,
        f"outputs look like {'probabilities' if share else 'logits'}; median range {spread:.3g}",
        "Return what comes before the softmax: on probabilities every gradient is scaled down by the confidence.",
    )


def gradient_alive(subject: Subject, exploits: dict[str, Exploit]) -> Check:
    """Margin and cross-entropy have a usable gradient at the clean inputs, and attacks could start.

    Cross-entropy may be without one on a fifth, and so may a start: on a few very confident inputs at the end of the
    data it vanishes for honest models too.
    """
    bad = {"margin": 0, "cross-entropy": 0}
    right = subject.clean_right
    with frozen(subject.model):
        for rows in torch.arange(len(subject.y), device=subject.y.device)[right].split(subject.batch_size):
            for name, loss in (("margin", margin), ("cross-entropy", cross_entropy)):
                _, gradient = value_and_gradient(subject.gain(rows, loss), subject.x[rows])
                flat = gradient.flatten(1)
                bad[name] += int((~flat.isfinite().all(1) | (flat.abs().amax(1) == 0)).sum())
    dead, n = max((e.dead for e in exploits.values()), default=0), max(1, int(right.sum()))
    blind = (bad["margin"], SLACK), (bad["cross-entropy"], 0.2), (dead, 0.2)
    holds = subject.differentiable and not any(surely(min(hits, n), n, share) for hits, share in blind)
    passes = "" if subject.differentiable else "no gradient passes the model; "
    return check(
        "gradient-alive",
        holds,
        f"{passes}of {n} inputs {bad['margin']} have a zero or non-finite gradient of the margin, "
        f"{bad['cross-entropy']} of cross-entropy; an attack could not start on {dead}",
        "Gradient attacks are blind there. Look for rounding, argmax, saturation, huge logits or non-differentiable "
        "steps in the model; attack it through a differentiable stand-in (sparring.attacks.bpda) or without gradients.",
    )


def finite_differences(bench: Bench, low: float, high: float) -> Check:
    """The gradient of the margin is the slope that the margin really has, along the gradient's own sign, at two random
    points of the threat model around each of at most 100 inputs. Not at the inputs themselves: on a plain background
    all that a pool takes the largest of is equal, and the gradient there is one of many.

    Central differences, one-sided where the box ends: a model may do as it likes outside. The step is a twentieth of a
    random point's mean distance per coordinate, and at least a thousandth of the input range. The ratio of measured to
    promised rise is 1 on a smooth model; a kink inside the step moves it a little, a jump far.
    """
    here = bench.some
    rows = here.clean_right.nonzero().squeeze(1)[:100]
    if len(rows) == 0:
        return check("finite-differences", True, "no example is right", "")
    x = here.x[rows]
    rng = torch.Generator(x.device).manual_seed(derive(bench.seed, "finite differences"))
    near = bench.threat.take(rows)
    points, rows = torch.cat([near.sample(x, rng), near.sample(x, rng)]), torch.cat([rows, rows])
    h = max(1e-3 * (high - low), 0.05 * (points - torch.cat([x, x])).abs().mean().item())
    chunks = zip(points.split(here.batch_size), rows.split(here.batch_size), strict=True)
    ratio = torch.cat([_slope_ratio(here.model, here.gain(some), z, h, low, high) for z, some in chunks])
    bad = int((~((ratio > 0.5) & (ratio < 2.0))).sum())
    return check(
        "finite-differences",
        not surely(bad, len(ratio), KINKED),
        f"{bad / len(ratio):.1%} of {len(ratio)} points have a slope that is not their gradient (median ratio "
        f"{ratio.nanmedian().item():.2f})",
        "The gradient that attacks follow is not the model's slope. Look for custom backward passes, rounding, "
        "discontinuous activations, detached tensors.",
    )


def _slope_ratio(model: nn.Module, gain: Gain, z: Tensor, h: float, low: float, high: float) -> Tensor:
    """The rise of the gain along its gradient's sign, measured over promised `[B]`; NaN where none is promised."""
    with frozen(model):
        _, gradient = value_and_gradient(gain, z)
        step = h * gradient.sign()
        up, down = (z + step).clamp(low, high), (z - step).clamp(low, high)
        with torch.no_grad():
            rise = gain(up) - gain(down)
    promised = (gradient * (up - down)).flatten(1).sum(1)
    return torch.where(promised > 0, rise / promised, torch.nan)


def random_noise(bench: Bench, standing: Tensor, *, draws: int = 10) -> Check:
    """Random points of the threat model beat no example that the attacks could not."""
    subject = bench.some
    survivors = (standing[: bench.count] & subject.clean_right).nonzero().squeeze(1)
    beaten = torch.zeros(len(survivors), dtype=torch.bool, device=survivors.device)
    right = subject.clean_right.clone()
    every = torch.arange(len(subject.y), device=survivors.device)
    rng = torch.Generator(subject.x.device).manual_seed(derive(bench.seed, "random noise"))
    for _ in range(draws):
        z = bench.threat.sample(subject.x, rng)
        stands = subject.standing(z, every)
        beaten |= ~stands[survivors]
        right &= stands
    share = beaten.double().mean().item() if len(beaten) else 0.0
    return check(
        "random-noise",
        not surely(int(beaten.sum()), len(subject.y), SLACK),
        f"accuracy {right.double().mean().item():.1%} under the worst of {draws} random points of the same size; they "
        f"beat {share:.1%} of what the attacks left standing",
        "Noise finds what the attacks cannot: they do not follow the model's real slope.",
    )


def single(bench: Bench, *, steps: int = 30) -> Exploit:
    """One run of APGD on the margin: what the next two checks hold against more."""
    challenge = apgd_challenge(f"apgd-{steps}-margin-x1", bench.threat, margin, steps=steps)
    return bench.attack(challenge, bench.threat, draw="restarts")


def restarts(bench: Bench, first: Exploit, *, steps: int = 30, runs: int = 5) -> Check:
    """What APGD finds does not hang on where it started: `first` is one run of it."""
    challenge = apgd_challenge(f"apgd-{steps}-margin-x{runs}", bench.threat, margin, steps=steps, restarts=runs)
    again = bench.attack(challenge, bench.threat, draw="more restarts", targets=first.right.nonzero().squeeze(1))
    both = first.right & again.right
    missed, beaten = _missed(bench, first.right, both)
    return check(
        "restarts",
        not surely(missed, beaten, RUGGED),
        f"{runs} further restarts of APGD-{steps} take accuracy from {_share(first.right)} to {_share(both)}: the "
        f"first run missed {missed} of {beaten}",
        "The loss is so rugged that success is luck: spend far more restarts, or smooth the model (mean over noise) "
        "for the attack.",
    )


def attacks_agree(bench: Bench, first: Exploit, standing: Tensor, *, steps: int = 30) -> Check:
    """One run of APGD on the margin, `first`, finds most of what all attacks together find.

    Args:
        bench: the examples.
        first: what `single` achieved.
        standing: which examples stand after the suite `[N]`.
    """
    both = first.right & standing[: bench.count]
    missed, beaten = _missed(bench, first.right, both)
    return check(
        "attacks-agree",
        not surely(missed, beaten, RUGGED),
        f"accuracy {_share(first.right)} under APGD-{steps} on the margin alone, {_share(both)} with the suite; alone "
        f"it missed {missed} of {beaten}",
        "A customary attack fails where another succeeds, so the suite may have failed where yet another would not: "
        "take its accuracy for an upper bound, and attack with more losses, targets and restarts.",
    )


def losses(bench: Bench, *, steps: int = 20) -> Check:
    """PGD on cross-entropy finds most of what PGD on the margin finds, or as many others."""
    found = {}
    for name, loss in (("cross-entropy", cross_entropy), ("margin", margin)):
        challenge = pgd_challenge(f"pgd-{steps}-{name}", bench.threat, loss, steps=steps)
        found[name] = bench.attack(challenge, bench.threat, draw="losses").right
    missed, beaten = _missed(bench, found["cross-entropy"], found["margin"])
    others, _ = _missed(bench, found["margin"], found["cross-entropy"])
    return check(
        "losses-agree",
        not surely(max(0, missed - others), beaten, BLIND),
        f"accuracy under PGD-{steps}: {_share(found['cross-entropy'])} on cross-entropy, {_share(found['margin'])} on "
        f"the margin; the former missed {missed} of {beaten} and found {others} others",
        "Cross-entropy is blind on this model: its logits are so large, or so distilled, that the softmax saturates. "
        "Numbers measured with cross-entropy alone are too high.",
    )


def black_box(bench: Bench, white: Tensor, found: Exploit | None, *, queries: int = 300) -> Check:
    """An attack without gradients beats nothing that the attacks with gradients left standing.

    Args:
        bench: the examples.
        white: which examples stand after the attacks with gradients `[N]`.
        found: what the suite's own black-box attack achieved on them, if it had one.
        queries: budget of Square where the suite had none, on the bench's examples.
    """
    if found is None:
        targets = white[: bench.count].nonzero().squeeze(1)
        attack: Attack = partial(square, queries=queries)
        if not isinstance(bench.threat, Linf | L2 | L1):
            attack = _random_search(queries)
        challenge = Challenge("black-box", attack, margin, {"queries": queries}, forwards=queries)
        found = bench.attack(challenge, bench.threat, draw="black box", targets=targets)
    tried = found.attempted & white[: len(found.right)]
    won, n = int((tried & ~found.right).sum()), len(found.right)
    return check(
        "black-box",
        not surely(won, n, SLACK),
        f"without gradients {won} of {int(tried.sum())} examples fell that stood with them",
        "An attack that sees less may not find more: the gradient is masked. Report the black-box number and attack "
        "a differentiable copy of the model.",
    )


def transfer(bench: Bench, white: Tensor, surrogate: nn.Module) -> Check:
    """Adversarial inputs made on another model beat nothing that the attacks on this one left standing.

    Args:
        bench: the examples.
        white: which of them stand after the attacks `[N]`.
        surrogate: the other model; it need not refuse where this one may.
    """
    known = bench.some
    other = subject(surrogate, (known.x, known.y), low=-math.inf, high=math.inf, batch_size=known.batch_size)
    abstain = known.abstain if other.logits.shape[1] == known.logits.shape[1] else None

    def elsewhere(gain: ClassifierGain, _: Tensor) -> ClassifierGain:
        return replace(gain, model=other.model, abstain=abstain)

    challenge = pgd_challenge("transfer", bench.threat, margin, steps=50)
    challenge = replace(challenge, gain=elsewhere)
    targets = white[: bench.count].nonzero().squeeze(1)
    with frozen(other.model):
        found = bench.attack(challenge, bench.threat, draw="transfer", targets=targets)
    won = int((found.attempted & ~found.right).sum())
    return check(
        "transfer",
        not surely(won, bench.count, SLACK),
        f"{won} of {len(targets)} examples that stood fell to inputs made on a surrogate",
        "Another model's adversarial inputs beat this one where its own gradients do not: they are masked.",
    )


def labels(subject: Subject, z: Tensor, right: Tensor) -> Check:
    """No output that is nobody's label takes most adversarial inputs: that is how a model refuses to answer.

    Args:
        subject: the model and its examples.
        z: the adversarial inputs `[N, ...]`.
        right: which examples stand at them `[N]`.
    """
    outputs = subject.logits.shape[1]
    unused = (torch.bincount(subject.y, minlength=outputs) == 0).nonzero().squeeze(1)
    lost = subject.clean_right & ~right
    # one only, and not for want of examples: 8 K leave a class out by chance less than once in two thousand
    if subject.abstain is not None or len(unused) != 1 or outputs < 3 or len(subject.y) < 8 * outputs:
        return check("labels", True, f"{len(unused)} of {outputs} outputs are no example's label", "")
    taken, n = int((subject.predict(z[lost]).argmax(1) == unused).sum()) if lost.any() else 0, int(lost.sum())
    return check(
        "labels",
        not surely(taken, n, 0.5),
        f"output {unused.item()}, no example's label, takes {taken} of {n} adversarial inputs",
        "If this output is how the model refuses to answer, say so (abstain): a refusal is no success for the "
        "adversary, and an attack that is content with one looks no further.",
    )


def _missed(bench: Bench, weaker: Tensor, stronger: Tensor) -> tuple[int, int]:
    """How many examples stand against the weaker attack of those that the stronger beats, and how many it beats."""
    beaten = bench.some.clean_right & ~stronger
    return int((beaten & weaker).sum()), int(beaten.sum())


def _random_search(draws: int) -> Attack:
    """The best of random allowed points, for threat models that Square does not know."""

    def drawn(_: Gain, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:
        return threat.sample(x, rng)

    return best_of(*(drawn,) * draws, early_stop=True)


def _share(right: Tensor) -> str:
    return f"{right.double().mean().item():.1%}"

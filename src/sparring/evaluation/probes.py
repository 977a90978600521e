"""Checks that run something of their own: small attacks and measurements whose only use is to unmask a defence.

Each returns a named verdict with its figure and what to do (`sparring.evaluation.sanity.check`). They use the first
`count` examples of a `Bench`; what they cost is a small share of the attacks.
"""

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
from sparring.evaluation.sanity import SLACK, Check, check, outdone
from sparring.evaluation.subject import Subject
from sparring.evaluation.suite import apgd_challenge, pgd_challenge

RUGGED = 0.1
"""How much accuracy one attack may leave to another of the same kind before that is a finding: honest adversarially
trained models lose a few points to restarts or to another loss, masked ones tens."""


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
    """Margin and cross-entropy have a usable gradient at the clean inputs, and no attack found its start dead."""
    bad = {"margin": 0, "cross-entropy": 0}
    right = subject.clean_right
    with frozen(subject.model):
        for rows in torch.arange(len(subject.y), device=subject.y.device)[right].split(subject.batch_size):
            for name, loss in (("margin", margin), ("cross-entropy", cross_entropy)):
                _, gradient = value_and_gradient(subject.gain(rows, loss), subject.x[rows])
                flat = gradient.flatten(1)
                bad[name] += int((~flat.isfinite().all(1) | (flat.abs().amax(1) == 0)).sum())
    dead, n = max((e.dead for e in exploits.values()), default=0), max(1, int(right.sum()))
    holds = subject.differentiable and bad["margin"] <= 0.01 * n and bad["cross-entropy"] <= 0.2 * n and dead == 0
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
    """The gradient of the margin is the slope that the margin really has, along the gradient's own sign.

    Central differences with a step of a thousandth of the input range, at most 100 examples that are right. The ratio
    of measured to promised rise is 1 on a smooth model; a kink inside the step moves it a little.
    """
    subject = bench.some
    rows = subject.clean_right.nonzero().squeeze(1)[:100]
    if len(rows) == 0:
        return check("finite-differences", True, "no example is right", "")
    gain, x, h = subject.gain(rows), subject.x[rows], 1e-3 * (high - low)
    with frozen(subject.model):
        _, gradient = value_and_gradient(gain, x)
        step = h * gradient.sign()
        with torch.no_grad():
            rise = gain(x + step) - gain(x - step)
    promised = 2 * h * gradient.abs().flatten(1).sum(1)
    ratio = torch.where(promised > 0, rise / promised, torch.nan)
    bad = (~((ratio > 0.5) & (ratio < 2.0))).double().mean().item()
    return check(
        "finite-differences",
        bad <= 0.1,
        f"{bad:.1%} of {len(rows)} inputs have a slope that is not their gradient (median ratio "
        f"{ratio.nanmedian().item():.2f})",
        "The gradient that attacks follow is not the model's slope. Look for custom backward passes, rounding, "
        "discontinuous activations, detached tensors.",
    )


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
        stands, _ = subject.standing(z, every)
        beaten |= ~stands[survivors]
        right &= stands
    share = beaten.double().mean().item() if len(beaten) else 0.0
    return check(
        "random-noise",
        int(beaten.sum()) <= max(1, SLACK * len(subject.y)),
        f"accuracy {right.double().mean().item():.1%} under the worst of {draws} random points of the same size; they "
        f"beat {share:.1%} of what the attacks left standing",
        "Noise finds what the attacks cannot: they do not follow the model's real slope.",
    )


def restarts(bench: Bench, *, steps: int = 30, runs: int = 5) -> Check:
    """What APGD finds does not hang on where it started."""
    one, more = (
        apgd_challenge(f"apgd-{steps}-margin-x{count}", bench.threat, margin, steps=steps, restarts=count)
        for count in (1, runs)
    )
    first = bench.attack(one, bench.threat, draw="restarts")
    again = bench.attack(more, bench.threat, draw="more restarts", targets=first.right.nonzero().squeeze(1))
    both = first.right & again.right
    fall, finding = outdone(first.right, both, RUGGED)
    return check(
        "restarts",
        not finding,
        f"{runs} further restarts of APGD-{steps} take accuracy from {_share(first.right)} to {_share(both)} "
        f"({100 * fall:.1f} points)",
        "The loss is so rugged that success is luck: spend far more restarts, or smooth the model (mean over noise) "
        "for the attack.",
    )


def losses(bench: Bench, *, steps: int = 20) -> Check:
    """PGD on cross-entropy finds about what PGD on the margin finds."""
    found = {}
    for name, loss in (("cross-entropy", cross_entropy), ("margin", margin)):
        challenge = pgd_challenge(f"pgd-{steps}-{name}", bench.threat, loss, steps=steps)
        found[name] = bench.attack(challenge, bench.threat, draw="losses").right
    _, finding = outdone(found["cross-entropy"], found["margin"], RUGGED)
    return check(
        "losses-agree",
        not finding,
        f"accuracy under PGD-{steps}: {_share(found['cross-entropy'])} on cross-entropy, {_share(found['margin'])} on "
        "the margin",
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
        won <= max(1, SLACK * n),
        f"without gradients {won} of {int(tried.sum())} examples fell that stood with them",
        "An attack that sees less may not find more: the gradient is masked. Report the black-box number and attack "
        "a differentiable copy of the model.",
    )


def transfer(bench: Bench, white: Tensor, surrogate: nn.Module) -> Check:
    """Adversarial inputs made on another model beat nothing that the attacks on this one left standing."""

    def elsewhere(gain: ClassifierGain, _: Tensor) -> ClassifierGain:
        return replace(gain, model=surrogate)

    challenge = pgd_challenge("transfer", bench.threat, margin, steps=50)
    challenge = replace(challenge, gain=elsewhere)
    targets = white[: bench.count].nonzero().squeeze(1)
    with frozen(surrogate):
        found = bench.attack(challenge, bench.threat, draw="transfer", targets=targets)
    won = int((found.attempted & ~found.right).sum())
    return check(
        "transfer",
        won <= max(1, SLACK * bench.count),
        f"{won} of {len(targets)} examples that stood fell to inputs made on a surrogate",
        "Another model's adversarial inputs beat this one where its own gradients do not: they are masked.",
    )


def _random_search(draws: int) -> Attack:
    """The best of random allowed points, for threat models that Square does not know."""

    def drawn(_: Gain, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:
        return threat.sample(x, rng)

    return best_of(*(drawn,) * draws, early_stop=True)


def _share(right: Tensor) -> str:
    return f"{right.double().mean().item():.1%}"

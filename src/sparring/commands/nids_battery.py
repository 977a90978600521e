"""What a two-layer defence is put through in a claim: attacks on its first layer, and attacks on both.

Every arm, one base learner or both layers, answers the same attacked flows. `clean` and what is attacked are told apart
by the attacker: a flow counts as caught only if it is caught as it is and as the attack made it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from sparring.commands.arms import as_bits, from_bits
from sparring.commands.flow_attacks import ahead, drawn_rows, in_parts, infeasible, strongest
from sparring.commands.flow_train import scores
from sparring.commands.nids_train import ROUNDS
from sparring.core.pgd import fgsm
from sparring.core.seeds import derive
from sparring.core.threat import Threat
from sparring.domains.flow import artefact
from sparring.domains.flow.alarm import Alarm
from sparring.domains.flow.artefact import Layer
from sparring.domains.flow.data import MALICIOUS, FlowData
from sparring.domains.flow.feasible import Feasible, unconstrained
from sparring.domains.flow.fitting import error, fit_perceptron
from sparring.domains.flow.idsgan import fit_idsgan, idsgan
from sparring.domains.flow.search import search
from sparring.domains.flow.stack import BASES, Stack
from sparring.engine import record
from sparring.engine.stream import hold_out
from sparring.evaluation.detection import auroc, f1, threshold_at
from sparring.evaluation.layered import Layered, thresholds
from sparring.systems.nids_ensemble import Config, Defence, Refit, adaptive

EPS = (0.01, 0.05, 0.1, 0.2)
"""Radii of FGSM and of Auto-PGD on the surrogate, beside the trial's own."""

RATES = (0.01, 0.05)
"""Total rates of false alarms that arms are compared at."""

KAPPAS = (0.01, 0.1, 1.0, 10.0)
"""Of the adaptive attack, in units of 1 / t2: what an error of twice the threshold costs, in nats."""

WHERE = "test"
"""Whose benign flows fix the thresholds that the attacks on both layers are made against, at the first of `RATES`."""

EVEN = 0.5
"""The share of the split that nothing was tuned for."""

LAYERED = ("stack + autoencoder", "stack + autoencoder, even split")

PAIR = ("single MLP", "stack")
"""The surrogate, and what its attacks are carried over to."""

Called = Callable[[dict[str, Tensor]], Tensor]
"""From the scores of rows to which of them an arm calls attacks."""


@dataclass(frozen=True)
class Trial:
    """How every arm is judged.

    Args:
        n: malicious test flows to attack; 0 attacks all.
        eps: radius of the attacks that have one radius.
        queries: of the black-box search, for each flow.
        gan_steps: of the attacker's IDSGAN.
        seed: of the choice of flows.
    """

    n: int
    eps: float
    queries: int
    gan_steps: int
    seed: int


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained defence, and the attacker's surrogate: a perceptron fitted to what the stack was fitted to, from a seed
    of its own."""

    stack: Stack
    autoencoder: nn.Module
    surrogate: nn.Module
    share: float

    def scores(self, u: Tensor) -> dict[str, Tensor]:
        """Of every part of the defence, float64 `[N]` each."""
        with torch.no_grad():
            votes = torch.cat([self.stack.votes(part) for part in u.split(8192)])
            first = self.stack.weighed(votes).softmax(1)[:, MALICIOUS]
            second = torch.cat([error(self.autoencoder, part).double() for part in u.split(8192)])
        each = dict(zip(BASES, votes.unbind(1), strict=True))
        return {"single MLP": scores(self.surrogate, u), **each, "stack": first, "autoencoder": second}


def subject(folder: Path, data: FlowData, seed: int) -> Subject:
    """The defence of a run, with a surrogate fitted now."""
    detector, facts = artefact.load(folder / artefact.FILE), record.read(folder)
    assert isinstance(detector.model, Stack)
    rows, _ = hold_out(data.train.y, facts["training"]["validation"], seed)
    learner = Refit(Defence(), Config(**facts["config"]), 0)
    learner.load_state_dict(load_tensors((folder / ROUNDS).read_bytes()))
    x, y, _ = learner.material(data.train.take(rows))
    chance = torch.Generator().manual_seed(derive(seed, "evaluation surrogate"))
    surrogate = fit_perceptron(x, y, chance)
    share = facts["thresholds"]["share of the classifier"]
    return Subject(detector.model, detector.layers[0].model, surrogate, share)


def arms(benign: dict[str, Tensor], rate: float, share: float) -> dict[str, Called]:
    """Every arm with its thresholds at this total rate of false alarms on these benign rows."""

    def single(name: str) -> Called:
        at = threshold_at(benign[name], rate)
        return lambda found: found[name] > at

    def both(share: float) -> Called:
        at = thresholds(benign["stack"], benign["autoencoder"], rate, share)
        return lambda found: at.called(found["stack"], found["autoencoder"])

    made = {name: single(name) for name in benign}
    return made | {name: both(each) for name, each in zip(LAYERED, (share, EVEN), strict=True)}


def attacked(folder: Path, data: FlowData, trial: Trial, seed: int) -> dict[str, Any]:
    """Everything about one defence: every arm, at every rate, with thresholds fixed on benign flows held out from
    training and on the test's benign flows."""
    one = subject(folder, data, seed)
    _, held_out = hold_out(data.train.y, record.read(folder)["training"]["validation"], seed)
    x, y = data.train.take(held_out)
    benign = one.scores(x[y != MALICIOUS])
    every = one.scores(data.test.x)
    malicious = data.test.y == MALICIOUS
    rows = drawn_rows(data, trial.n, trial.seed)
    on = {"held out": benign, WHERE: {name: each[~malicious] for name, each in every.items()}}
    found, refused = _moves(one, data, rows, on, trial, seed)
    judged: dict[str, Any] = {}
    for where, from_rows in on.items():
        for rate in RATES:
            called = arms(from_rows, rate, one.share)
            judged[f"{where}, {rate:.0%}"] = {name: _judged(data, call, every, found) for name, call in called.items()}
    joint = {
        name: _severity(_at(benign, RATES[0], share), every)
        for name, share in zip(LAYERED, (one.share, EVEN), strict=True)
    }
    return {
        "judged": judged,
        "AUROC": {name: auroc(each, malicious) for name, each in (every | joint).items()},
        "share": one.share,
        "transfer": _transfer(judged["held out, 1%"]),
        "infeasible": refused,
        "trial": asdict(trial),
    }  # fmt: skip


def _moves(
    one: Subject, data: FlowData, rows: Tensor, on: dict[str, dict[str, Tensor]], trial: Trial, seed: int
) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
    """The scores of the drawn flows under each attack, and how many of them the independent check refuses.

    The last ones look at both layers: the search by the detector's own severity, which needs no surrogate, and
    Auto-PGD through the surrogate, on that severity and on `adaptive` for several kappa.
    """
    x, made = data.test.x[rows], data.preprocessing
    near, feasible = ahead(one.surrogate), Feasible(made, trial.eps)
    moves: dict[str, Tensor] = {"clean": x}
    for eps in sorted({*EPS, trial.eps}):
        within: tuple[tuple[str, Threat], ...] = (("", Feasible(made, eps)), (", any row", unconstrained(made, eps)))
        for words, threat in within:
            moves[f"FGSM {eps:g}{words}"] = in_parts(fgsm, near, x, threat, seed)
        moves[f"APGD {eps:g}"] = strongest(near, x, Feasible(made, eps), seed)
    at = threshold_at(on["held out"]["stack"], RATES[0])
    moves[f"GAN {trial.eps:g}"] = _generated(one, data, x, feasible, at, trial, seed)
    looked = partial(search, queries=trial.queries)
    moves["search, stack"] = in_parts(looked, ahead(one.stack), x, feasible, seed)
    for words, share in (("", one.share), (", even split", EVEN)):
        at_share = _at(on[WHERE], RATES[0], share)
        both = _alarm(one, at_share)
        moves[f"search, both{words}"] = in_parts(looked, both.evading, x, feasible, seed)
        smooth = both.with_classifier(one.surrogate)
        moves[f"climb, both{words}"] = strongest(smooth.evading, x, feasible, seed)
        for kappa in KAPPAS:
            gain = adaptive(one.surrogate, one.autoencoder, at_share.second, kappa / at_share.second)
            moves[f"kappa {kappa:g}{words}"] = strongest(gain, x, feasible, seed)
    refused = {name: int(infeasible(data, rows, x, z).sum()) for name, z in moves.items() if "any row" not in name}
    return {name: one.scores(z) for name, z in moves.items()}, refused


def _generated(one: Subject, data: FlowData, x: Tensor, threat: Threat, at: float, trial: Trial, seed: int) -> Tensor:
    """IDSGAN, trained on training flows against the yes and no of the stack at its threshold."""
    own = data.train.y == MALICIOUS
    rng = torch.Generator().manual_seed(derive(seed, "idsgan"))
    gan = fit_idsgan(
        lambda u: scores(one.stack, u) > at,
        data.train.x[own],
        data.train.x[~own],
        threat,
        rng,
        steps=trial.gan_steps,
        learning_rate=1e-3,
    )
    return in_parts(partial(idsgan, gan=gan), ahead(one.stack), x, threat, seed)


def _at(benign: dict[str, Tensor], rate: float, share: float) -> Layered:
    return thresholds(benign["stack"], benign["autoencoder"], rate, share)


def _alarm(one: Subject, at: Layered) -> Alarm:
    return Alarm(one.stack, at.first, (Layer("autoencoder", one.autoencoder, at.second),))


def _severity(at: Layered, found: dict[str, Tensor]) -> Tensor:
    """`Alarm` of scores: how far above its threshold the layer is that is farthest, in nats."""
    odds = found["stack"].logit() - torch.tensor(at.first, dtype=torch.float64).logit()
    return torch.maximum(odds, (found["autoencoder"] / at.second).log())


def _judged(
    data: FlowData, called: Called, every: dict[str, Tensor], found: dict[str, dict[str, Tensor]]
) -> dict[str, Any]:
    """An arm with its thresholds: which drawn flows it catches under each attack, and rates over the whole test."""
    malicious, unseen = data.test.y == MALICIOUS, torch.from_numpy(data.unseen)
    alarm = called(every)
    clean = called(found["clean"])
    kinds = {str(kind): torch.from_numpy(data.test.kinds == kind) for kind in sorted(set(data.test.kinds[malicious]))}
    groups = {**kinds, "seen types": malicious & ~unseen, "unseen types": malicious & unseen}
    return {
        "caught": {name: as_bits(clean & called(each)) for name, each in found.items()},
        "detection": alarm[malicious].double().mean().item(),
        "false positives": alarm[~malicious].double().mean().item(),
        "F1": f1(alarm.double(), malicious, 0.5),
        "by kind": {name: alarm[of].double().mean().item() for name, of in groups.items() if of.any()},
    }


def _transfer(judged: dict[str, Any]) -> dict[str, float | None]:
    """Of the flows that surrogate and stack both catch as they are, and that Auto-PGD takes past the surrogate, the
    share that passes the stack too: no query is asked of it. None where it took none past the surrogate."""
    surrogate, stack = ({name: from_bits(bits) for name, bits in judged[arm]["caught"].items()} for arm in PAIR)
    rates: dict[str, float | None] = {}
    for attack in (name for name in stack if name.startswith("APGD ")):
        passed = surrogate["clean"] & stack["clean"] & ~surrogate[attack]
        rates[attack] = float((passed & ~stack[attack]).sum() / passed.sum()) if passed.any() else None
    return rates

"""Two layers against intrusions: a stack of classifiers, then an autoencoder for what the stack lets pass.

    min_theta  E_{y=0} L(s(x), 0)  +  E_{y=1} [ L(s(x), 1) + sum_k L(s(z_k), 1) ]
    z_k  =  argmax_{z in C(x)} L(s_{k-1}(z), 1),    s_{k-1} the stack before round k
    y(x) = 1[ s(x) > t1 ]  or  1[ r(x) > t2 ],    r(x) = |x - A(x)|_2^2 / d,   A fitted to benign rows only

Learner
    A round adds the adversary's rows to all that it has collected and fits the stack again from scratch: boosted trees,
    a forest, a perceptron and a linear model, and a logistic regression on what they say of rows out of their folds.
    The autoencoder is fitted once, to benign rows; no adversarial row is ever in its data.
Adversary
    Answers the malicious training rows against the stack as it is. A share of them by IDSGAN, which learns from the
    yes and no of the stack alone; the others by FGSM on a surrogate, a perceptron fitted to what the stack is fitted
    to, because trees have no gradient. Against a stack that is not fitted yet it plays the rows as they are: the first
    round is standard training.
Payoff
    Cross-entropy of the stack at the adversary's move.
Threat
    Feasible flows of a schema (`sparring.domains.flow.feasible`), for malicious rows.
Reference
    Soltani et al., "Enhancing network intrusion detection systems: a multi-layer ensemble approach to mitigate
    adversarial attacks", IEEE SMC 2025 (arXiv 2603.10413). IDSGAN: Lin et al., "IDSGAN: generative adversarial networks
    for attack generation against intrusion detection". FGSM: Goodfellow et al. 2015.
Departs from the paper in
    Only its abstract could be read: attacks by a GAN and by FGSM, a stack and then an autoencoder for what the stack
    calls benign, adversarial training, UNSW-NB15 and NSL-KDD. Base learners, the autoencoder's shape, thresholds,
    radii, the GAN, rounds, surrogate and feasibility are ours. FGSM takes the sign of the margin's slope: with two
    classes cross-entropy's has the same sign, and the margin still has one where the surrogate is certain.
Claim
    With the autoencoder more is detected than by the stack alone, at the same total rate of false alarms, under attacks
    that ignore it; asked beside it: what adversarial training adds, and what an attack on both layers leaves of it.
    With an "or" between layers detection rises by construction, so nothing less is evidence. Measured: docs/results.md.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparring.core.gain import Gain
from sparring.core.game import Batch, Game, Metrics
from sparring.core.gradient import frozen
from sparring.core.payoff import cross_entropy, hard, margin, of_model
from sparring.core.pgd import fgsm
from sparring.core.seeds import derive
from sparring.core.standing import check_count
from sparring.core.threat import Linf, Threat
from sparring.core.tools import Tools
from sparring.domains.flow.data import MALICIOUS
from sparring.domains.flow.fitting import error, fit_autoencoder, fit_perceptron
from sparring.domains.flow.idsgan import fit_idsgan, idsgan
from sparring.domains.flow.stack import Stack, exported
from sparring.domains.flow.stacking import fit_stack, folds_of, learners
from sparring.engine.system import System

DRAWS = 4
"""Changes that IDSGAN tries for each row."""


@dataclass(frozen=True)
class Config:
    """How often the defence is attacked and fitted again, by whom, and how large it is."""

    rounds: int = 2
    """Rounds of attacking the defence, adding what was found and fitting it again, after the first fit; 0 is without
    adversarial training."""
    generated: float = 0.5
    """Share of the malicious rows that IDSGAN answers, in [0, 1]; FGSM answers the others."""
    gan_steps: int = 100
    """Steps of IDSGAN's generator in each round."""
    threat: Literal["linf"] = "linf"
    """Norm of the ball around each scaled row."""
    eps: float = 0.1
    """Radius in scaled space, where every feature is in [0, 1] over the training rows."""
    folds: int = 5
    """Folds of the stack: the meta-learner sees what base learners say of the fold that they were not fitted to."""
    trees: int = 100
    """Boosted trees; the forest has half as many."""
    epochs: int = 30
    """Passes over the benign rows of the autoencoder, and half as many of the perceptrons."""

    def __post_init__(self) -> None:
        Linf(self.eps)
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 0:
            raise ValueError(
                f"The 'rounds' parameter must be an int in the range [0, inf). Got {self.rounds!r} instead."
            )
        if not 0 <= self.generated <= 1:
            raise ValueError(
                f"The 'generated' parameter must be a number in the range [0, 1]. Got {self.generated!r} instead."
            )
        for name in ("gan_steps", "trees", "epochs"):
            check_count(name, getattr(self, name))
        if isinstance(self.folds, bool) or not isinstance(self.folds, int) or self.folds < 2:
            raise ValueError(f"The 'folds' parameter must be an int in the range [2, inf). Got {self.folds!r} instead.")


class Defence(nn.Module):
    """Both layers, and the surrogate that lends the first one its gradients; none of them before the first round."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: Stack | None = None
        self.surrogate: nn.Module | None = None
        self.autoencoder: nn.Module | None = None

    def forward(self, u: Tensor) -> Tensor:
        """The stack's logits `[B, 2]` of benign and malicious; even odds before it is fitted."""
        if self.stack is None:
            return torch.zeros(len(u), 2, dtype=torch.float64)
        logits: Tensor = self.stack(u)
        return logits


def adaptive(surrogate: nn.Module, autoencoder: nn.Module, threshold: float, kappa: float) -> Gain:
    """What an attacker of both layers ascends, `[B]`, at malicious rows z:

        -log p(attack | z) - kappa max(0, r(z) - t2)

    with p the surrogate's probability. With kappa = 0 it is the attack that ignores the second layer.

    Args:
        surrogate: `[B, d] -> [B, 2]` logits.
        autoencoder: `[B, d] -> [B, d]`.
        threshold: t2.
        kappa: what a unit of reconstruction error above t2 costs.
    """

    def gain(z: Tensor, /) -> Tensor:
        evasion = cross_entropy(surrogate(z), torch.full((len(z),), MALICIOUS, device=z.device))
        return evasion - kappa * (error(autoencoder, z) - threshold).clamp(min=0)

    return gain


class Refit:
    """The learner: fits the defence again to the batch and to all rows that the adversary has answered with so far.

    Batches are whole data sets, the same in every round. What it carries between rounds are the collected rows; the
    fits are functions of them, the batch and the seed.

    Args:
        model: the defence.
        config: sizes.
        seed: of every fit.
    """

    def __init__(self, model: Defence, config: Config, seed: int) -> None:
        self.model, self.config, self._seed = model, config, seed
        self.rounds = 0
        self._origin: list[Tensor] = []
        self._rows: list[Tensor] = []

    def update(self, move: Tensor, batch: Batch) -> Metrics:
        x, y = batch[0], hard(batch[1])
        loss = cross_entropy(self.model(move), y).mean()
        moved = ((move != x).any(1) & (y == MALICIOUS)).nonzero().squeeze(1)
        self._origin.append(moved)
        self._rows.append(move[moved].detach().clone())
        self.rounds += 1
        self.fit(batch)
        return {"loss": loss.detach(), "collected": torch.tensor(sum(map(len, self._rows)))}

    def fit(self, batch: Batch) -> None:
        """The defence of these rows and of what is collected."""
        rows, y, origin = self.material(batch)
        rng = torch.Generator().manual_seed(derive(self._seed, "fit", self.rounds))
        fold = folds_of(y, origin, self.config.folds, rng)
        half = max(1, self.config.epochs // 2)
        bases = learners(derive(self._seed, "learners", self.rounds), trees=self.config.trees, epochs=half)
        self.model.stack = exported(fit_stack(rows, y, fold, bases))
        self.model.surrogate = fit_perceptron(rows, y, rng, epochs=half)
        if self.model.autoencoder is None:
            own = torch.Generator().manual_seed(derive(self._seed, "autoencoder"))
            benign = batch[0][hard(batch[1]) != MALICIOUS]
            self.model.autoencoder = fit_autoencoder(benign, own, epochs=self.config.epochs)

    def material(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """What the stack is fitted to: rows `[N', d]`, classes, and the row of the batch that each was made of."""
        x, y = batch[0], hard(batch[1])
        made = torch.cat([torch.arange(len(x)), *self._origin])
        return torch.cat([x, *self._rows]), y[made], made

    def state_dict(self) -> dict[str, Any]:
        """The collected rows and how many rounds they are of."""
        empty = torch.zeros(0, dtype=torch.int64)
        sizes = torch.tensor([len(each) for each in self._rows], dtype=torch.int64)
        rows = torch.cat(self._rows) if self._rows else torch.zeros(0, 0)
        return {"sizes": sizes, "origin": torch.cat([empty, *self._origin]), "rows": rows}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from what `state_dict` gave, but for the defence: `fit` makes it again."""
        sizes = state["sizes"].tolist()
        self._origin, self._rows = list(state["origin"].split(sizes)), list(state["rows"].split(sizes))
        self.rounds = len(sizes)


@dataclass(frozen=True)
class Forgers:
    """The adversary: IDSGAN against the stack's answers for a share of the malicious rows, FGSM on its surrogate for
    the others. Which rows are whose is drawn.

    Args:
        threat: what may become of a malicious row.
        generated: the share of IDSGAN.
        gan_steps: of its generator.
        rng: source of all that is random, on the CPU.
    """

    threat: Threat
    generated: float
    gan_steps: int
    rng: torch.Generator | None = None

    def respond(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch[0], hard(batch[1])
        assert isinstance(model, Defence), "only a Defence has a surrogate"
        own = (y == MALICIOUS).nonzero().squeeze(1)
        if model.stack is None or model.surrogate is None or len(own) == 0:
            return x
        drawn = own[torch.randperm(len(own), generator=self.rng)]
        count = round(self.generated * len(own))
        z = x.clone()
        with frozen(model):
            if count:
                z[drawn[:count]] = self._generated(model, x[drawn[:count]], x[y != MALICIOUS])
            if count < len(own):
                z[drawn[count:]] = self._signed(model.surrogate, x[drawn[count:]])
        return z

    def _signed(self, surrogate: nn.Module, x: Tensor) -> Tensor:
        return fgsm(partial(ahead, surrogate), x, self.threat, rng=self.rng).detach()

    def _generated(self, model: Defence, x: Tensor, benign: Tensor) -> Tensor:
        def alarm(u: Tensor) -> Tensor:
            called: Tensor = model(u).argmax(1) == MALICIOUS
            return called

        gan = fit_idsgan(alarm, x, benign, self.threat, self.rng, steps=self.gan_steps, learning_rate=1e-3)
        return idsgan(partial(ahead, model), x, self.threat, gan=gan, draws=DRAWS, rng=self.rng)


def ahead(model: nn.Module, z: Tensor, /) -> Tensor:
    """How far benign is ahead of malicious, `[B]`."""
    return margin(model(z), torch.full((len(z),), MALICIOUS, device=z.device))


def game(
    config: Config, *, model: Defence | None = None, threat: Threat | None = None, tools: Tools | None = None
) -> Game:
    """The game of a defence. Each batch is a whole training set `(x [N, d], y [N])`, on the CPU, and each round fits
    the defence to it: `play(game, [data] * (1 + config.rounds))`.

    Args:
        config: rounds, adversary, sizes.
        model: the defence to fit; a new one by default.
        threat: what may become of a malicious row: `Feasible(preprocessing, eps)`. By default a plain ball, in which
            rows need not be feasible.
        tools: what an engine hands in; of it the random numbers.
    """
    tools = tools or Tools()
    seed = int(torch.randint(2**62, (), generator=tools.rng))
    adversary = Forgers(threat or Linf(config.eps), config.generated, config.gan_steps, tools.rng)
    return Game(Refit(model or Defence(), config, seed), adversary, of_model(cross_entropy))


def threat(config: Config) -> Threat:
    """The ball that bounds the feasible set."""
    return Linf(config.eps)


SYSTEM = System(
    name="nids-ensemble",
    config=Config,
    game=game,
    threat=threat,
    domain="flow",
    citation="""@inproceedings{soltani2025enhancing,
  title     = {Enhancing Network Intrusion Detection Systems: A Multi-Layer Ensemble Approach to Mitigate Adversarial
               Attacks},
  author    = {Soltani, Nasim and Nejadshamsi, Shayan and El Houda, Zakaria Abou and Khoury, Raphael and
               Costa, Kelton A. P. and Falk, Tiago H. and Avila, Anderson R.},
  booktitle = {IEEE International Conference on Systems, Man, and Cybernetics},
  year      = {2025},
  doi       = {10.1109/SMC58881.2025.11342479}
}""",
    card=__doc__,
)

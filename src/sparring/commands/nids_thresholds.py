"""Both thresholds of a two-layer defence, from training flows that no weight has seen.

The total rate of false alarms fixes the pair but for one number: how the false alarms are shared between the layers. On
flows of the kinds that the stack was fitted to it hardly needs a second layer, and a split chosen on them would switch
the second one off. What that is for is attacks that the stack does not know, so the split is also judged by types of
attack that a stack was not fitted to: the types are dealt into groups, for each group a smaller stack is fitted without
it, and has to detect it. The test set has no part in this.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparring.commands.flow_train import scores
from sparring.core.seeds import derive
from sparring.domains.flow.data import MALICIOUS, FlowData
from sparring.domains.flow.fitting import error
from sparring.domains.flow.stack import exported
from sparring.domains.flow.stacking import fit_stack, folds_of, learners
from sparring.evaluation.layered import Case, Layered, split, thresholds
from sparring.systems.nids_ensemble import Forgers, Refit

GROUPS = 3
"""Of types of attack, each left out once."""

FOLDS = 2
"""Of the stacks without them, which are smaller than the defence's own."""

Scores = tuple[Tensor, Tensor]
"""Of both layers: the probability of malicious, and the reconstruction error, float64 `[N]` each."""


@torch.no_grad()
def of_layers(classifier: nn.Module, autoencoder: nn.Module, u: Tensor) -> Scores:
    """What both layers say of vectors `[N, d]`."""
    return scores(classifier, u), torch.cat([error(autoencoder, part).double() for part in u.split(8192)])


def chosen(
    learner: Refit, adversary: Forgers, data: FlowData, rows: Tensor, held_out: Tensor, rate: float, seed: int
) -> Layered:
    """Both thresholds at this total rate of false alarms on held-out benign flows, with the split by which most is
    detected of held-out attacks as they are and as the training adversary would send them, and of attacks left out.

    Args:
        learner: after its last round.
        adversary: the training adversary.
        data: whose training flows `rows` the learner was fitted to, and `held_out` not.
        rate: of false alarms, of both layers together.
        seed: of the groups and of the stacks without them.
    """
    defence = learner.model
    assert defence.autoencoder is not None
    x, y = data.train.take(held_out)
    own = y == MALICIOUS
    moved = adversary.respond(defence, (x, y))
    benign, clean, attacked = (of_layers(defence, defence.autoencoder, u) for u in (x[~own], x[own], moved[own]))
    cases = [Case(benign, (clean, attacked))]
    cases += _left_out(learner, defence.autoencoder, data, rows, x[~own], seed)
    return thresholds(*benign, rate, split(cases, rate))


def dealt(names: Sequence[str], seed: int) -> list[list[str]]:
    """Types of attack in groups of nearly one size; none where there are not two for each."""
    known = sorted(set(names))
    if len(known) < 2 * GROUPS:
        return []
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(derive(seed, "types")))
    return [[known[k] for k in order[at::GROUPS].tolist()] for at in range(GROUPS)]


def _left_out(
    learner: Refit, autoencoder: nn.Module, data: FlowData, rows: Tensor, benign: Tensor, seed: int
) -> list[Case]:
    batch = data.train.take(rows)
    u, y, origin = learner.material(batch)
    names: NDArray[Any] = data.train.names[rows.numpy()].astype(str)
    attacks = (batch[1] == MALICIOUS).numpy()
    trees, epochs = max(1, learner.config.trees // 2), max(1, learner.config.epochs // 4)
    cases = []
    for k, group in enumerate(dealt(names[attacks].tolist(), seed)):
        away = torch.from_numpy(attacks & np.isin(names, group))
        stays = ~away[origin]
        number = torch.cumsum(stays, 0) - 1  # of a row among those that stay; a row stays if its origin does
        rng = torch.Generator().manual_seed(derive(seed, "left out", k))
        fold = folds_of(y[stays], number[origin[stays]], FOLDS, rng)
        bases = learners(derive(seed, "left out", k), trees=trees, epochs=epochs)
        stack = exported(fit_stack(u[stays], y[stays], fold, bases))
        strangers = [torch.from_numpy(attacks & (names == name)) for name in group]
        found = tuple(of_layers(stack, autoencoder, batch[0][each]) for each in strangers)
        cases.append(Case(of_layers(stack, autoencoder, benign), found))
    return cases

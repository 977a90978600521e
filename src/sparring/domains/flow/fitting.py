"""Networks fitted to rows that are in memory: an autoencoder of benign flows, and a perceptron that stands in for a
detector without gradients. Both are games against nature."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from sparring.core.game import Batch, Game, Payoff, play
from sparring.core.payoff import cross_entropy, of_model
from sparring.core.players import Descent, Nature
from sparring.core.standing import check_count
from sparring.domains.flow import models
from sparring.domains.flow.generator import rows_of


def fit_autoencoder(
    benign: Tensor, rng: torch.Generator, *, epochs: int = 30, batch: int = 256, learning_rate: float = 2e-3
) -> nn.Module:
    """What reconstructs benign rows, by their mean squared error. It is shown nothing else: what it reconstructs badly
    is unlike benign traffic.

    Args:
        benign: rows `[N, d]` in [0, 1].
        rng: source of the first weights and of the order, on the CPU.
        epochs: passes over the rows.
        batch: rows in a step.
        learning_rate: Adam's.
    """
    benign = rows_of("benign", benign)
    model = _made(lambda: models.autoencoder(benign.shape[1]), rng)

    def objective(network: nn.Module, z: Tensor, _: Batch) -> Tensor:
        return error(network, z)

    return _fitted(model, objective, (benign,), rng, epochs, batch, learning_rate)


def fit_perceptron(
    x: Tensor, y: Tensor, rng: torch.Generator, *, epochs: int = 15, batch: int = 256, learning_rate: float = 2e-3
) -> nn.Module:
    """`sparring.domains.flow.models.mlp` by cross-entropy: the surrogate that lends a stack its gradients.

    Args:
        x: rows `[N, d]`.
        y: classes `[N]`.
        rng, epochs, batch, learning_rate: as for `fit_autoencoder`.
    """
    x = rows_of("x", x)
    model = _made(lambda: models.mlp(x.shape[1]), rng)
    return _fitted(model, of_model(cross_entropy), (x, y), rng, epochs, batch, learning_rate)


def error(autoencoder: nn.Module, u: Tensor) -> Tensor:
    """r(u) = |u - AE(u)|_2^2 / d, `[B]`."""
    squares: Tensor = (autoencoder(u) - u).square()
    return squares.mean(1)


def _made(make: Callable[[], nn.Module], rng: torch.Generator) -> nn.Module:
    """A model whose first weights are a function of rng; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        return make()


def _fitted(
    model: nn.Module,
    objective: Payoff,
    rows: Batch,
    rng: torch.Generator,
    epochs: int,
    batch: int,
    learning_rate: float,
) -> nn.Module:
    check_count("epochs", epochs)
    check_count("batch", batch)

    def batches() -> Iterator[Batch]:
        for _ in range(epochs):
            for part in torch.randperm(len(rows[0]), generator=rng).split(batch):
                yield tuple(each[part] for each in rows)

    learner = Descent(model, torch.optim.Adam(model.parameters(), lr=learning_rate), objective)
    for _ in play(Game(learner, Nature(), objective), batches()):
        pass
    return model.eval().requires_grad_(False)

"""A network that answers as a detector does: what an attacker trains who may ask a detector and not look into it.

Papernot et al., "Practical black-box attacks against machine learning", 2017: label inputs with the answers of the
model, fit a substitute to them, and attack that one. Departs from the paper: answers are probabilities, not labels,
and the rows that are asked about beside the given ones are random allowed changes of the malicious ones, where the
paper moves rows along the substitute's gradient.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from sparring.core.game import Batch, Game, play
from sparring.core.payoff import cross_entropy, of_model
from sparring.core.players import Descent, Nature
from sparring.core.standing import check_count, check_positive
from sparring.core.threat import Threat
from sparring.domains.flow.generator import drawn, perceptron, rows_of


def fit_substitute(
    answers: Callable[[Tensor], Tensor],
    benign: Tensor,
    malicious: Tensor,
    threat: Threat,
    rng: torch.Generator | None = None,
    *,
    steps: int = 1000,
    batch: int = 256,
    width: int = 64,
    learning_rate: float = 3e-3,
    progress: Callable[[float], object] | None = None,
) -> nn.Module:
    """A network `[B, d] -> [B, 2]` whose probability of malicious is near a detector's.

    Args:
        answers: the detector, `rows [B, d] -> [B]`, the probability of malicious in [0, 1]. It is asked once about
            every row and about one changed copy of each malicious one.
        benign, malicious: rows `[N, d]` each.
        threat: what a malicious row may become.
        rng: source of all that is random, on the CPU.
        steps: of Adam.
        batch: rows in a step.
        width: of the two hidden layers.
        learning_rate: Adam's.
        progress: told the share of the steps that is done, after each.

    Raises:
        ValueError: for a parameter out of its range, or answers that are none.
    """
    benign, malicious = rows_of("benign", benign), rows_of("malicious", malicious)
    for name, count in (("steps", steps), ("batch", batch), ("width", width)):
        check_count(name, count)
    check_positive("learning_rate", learning_rate)
    asked = torch.cat([benign, malicious, threat.sample(malicious, rng)])
    told = _probabilities(answers, asked).to(asked.dtype)
    model = perceptron(asked.shape[1], width, width, 2, rng=rng).to(asked)
    payoff = of_model(cross_entropy)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    game = Game(Descent(model, optimizer, payoff), Nature(), payoff)

    def batches() -> Iterator[Batch]:
        for _ in range(steps):
            at = drawn(asked, batch, rng)
            yield asked[at], torch.stack([1 - told[at], told[at]], 1)

    for step, _ in enumerate(play(game, batches())):
        if progress is not None:
            progress((step + 1) / steps)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def _probabilities(answers: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    told = torch.cat([answers(part) for part in rows.split(8192)])
    if told.shape != (len(rows),) or not bool(((told >= 0) & (told <= 1)).all()):
        raise ValueError(
            f"The 'answers' parameter must answer with probabilities [{len(rows)}]. Got {list(told.shape)} instead."
        )
    return told

"""IDSGAN: a generator of evasive flows that learns from the yes and no of a detector it cannot look into.

    discriminator   min_D   mean of D over rows that the detector passes  -  mean of D over rows that it flags
    generator       min_G   E D(m + G(m, n)),    m a malicious row, n noise

The discriminator imitates the detector: the rows are benign ones and the generator's own, and their labels are the
detector's answers, not the truth. This is IDSGAN (Lin et al., "IDSGAN: generative adversarial networks for attack
generation against intrusion detection") as it is commonly described, and has not been compared with the paper. It
departs from that description in this: what may change, there feature groups of NSL-KDD by kind of attack, is the
threat's business; the generator makes a change of m within the threat's radius, not a row, so that its answers stay
near m; the row that it makes is projected, and differentiated as if it were not, because rounding to an integer has no
gradient; and of several draws an attack keeps the best.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparring.core.gain import Gain
from sparring.core.game import Batch, Game
from sparring.core.players import Critic, Descent
from sparring.core.standing import check_count, check_positive
from sparring.core.threat import Threat
from sparring.domains.flow.generator import drawn, highest, host, normal, perceptron, rounds, rows_of
from sparring.domains.flow.search import movable

Labels = Callable[[Tensor], Tensor]
"""A detector that tells no more than it must: `rows [B, d] -> bool [B]`, true for an alarm."""


class IdsGan(nn.Module):
    """The two networks. `forward` takes malicious rows `[B, d]` to changes `[B, d]` in (-1, 1), in units of a radius.

    Args:
        d: coordinates of a row.
        noise: coordinates of the noise.
        width: of the two hidden layers of both.
        rng: source of the first weights, on the CPU.
    """

    def __init__(self, d: int, *, noise: int = 8, width: int = 64, rng: torch.Generator | None = None) -> None:
        super().__init__()
        self.noise = noise
        self.generator = perceptron(d + noise, width, width, d, rng=rng)
        self.discriminator = perceptron(d, width, width, 1, rng=rng)

    def forward(self, m: Tensor, rng: torch.Generator | None = None) -> Tensor:
        noise = normal(self.generator, len(m), self.noise, rng)
        change: Tensor = self.generator(torch.cat([m.to(noise), noise], 1))
        return change.tanh()

    def made(self, m: Tensor, threat: Threat, may: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Evasive rows: allowed, and with the gradient that they had without the projection.

        Args:
            m: malicious rows `[B, d]`.
            threat: where their changed selves may be; the changes are at most its radius, and at most 1.
            may: `movable(threat, m)`.
            rng: source of the noise.
        """
        wanted = self.wanted(m, threat, may, rng)
        return threat.project(wanted.detach(), m) + (wanted - wanted.detach())  # the second part is 0, exactly

    def wanted(self, m: Tensor, threat: Threat, may: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """The same before the projection."""
        change: Tensor = self(m, rng)
        return m + (min(threat.eps, 1.0) * change * may).to(m)


def fit_idsgan(
    black_box: Labels,
    malicious: Tensor,
    benign: Tensor,
    threat: Threat,
    rng: torch.Generator | None = None,
    *,
    steps: int = 500,
    batch: int = 64,
    noise: int = 8,
    width: int = 64,
    critic_steps: int = 5,
    clip: float = 0.01,
    learning_rate: float = 1e-4,
    progress: Callable[[float], object] | None = None,
) -> IdsGan:
    """Train against a detector. It is asked about every benign row once, and about `steps * critic_steps * batch` rows
    of the generator.

    Weight clipping and RMSprop are those of Arjovsky et al., "Wasserstein GAN", 2017. What IDSGAN's own numbers are was
    not checked: the defaults are ours.

    Args:
        black_box: the detector.
        malicious: rows `[N, d]` that it should come to miss.
        benign: rows `[N', d]`.
        threat: where the changed rows may be.
        rng: source of all that is random, on the device of the rows.
        steps: of the generator.
        batch: rows of each kind in a step.
        noise, width: of the networks, see `IdsGan`.
        critic_steps: of the discriminator before each step of the generator.
        clip: the largest weight of the discriminator, in absolute value.
        learning_rate: RMSprop's, of both.
        progress: told the share of the steps that is done, after each.

    Raises:
        ValueError: for a parameter out of its range, rows that do not match, or answers that are not bool `[B]`.
    """
    malicious, benign = rows_of("malicious", malicious), rows_of("benign", benign)
    if malicious.shape[1] != benign.shape[1]:
        raise ValueError(
            f"The 'benign' parameter must have {malicious.shape[1]} columns, as malicious rows have. "
            f"Got {benign.shape[1]} instead."
        )
    for name, count in (("steps", steps), ("batch", batch), ("noise", noise), ("width", width)):
        check_count(name, count)
    check_count("critic_steps", critic_steps)
    check_positive("clip", clip)
    check_positive("learning_rate", learning_rate)
    gan = IdsGan(malicious.shape[1], noise=noise, width=width, rng=host(rng)).to(malicious)
    may = movable(threat, malicious)
    known = _answers(black_box, benign)

    def evasive() -> Tensor:
        at = drawn(malicious, batch, rng)
        return gan.made(malicious[at], threat.take(at), may[at], rng)

    def payoff(_: nn.Module, network: nn.Module, __: Batch) -> Tensor:
        made = evasive()
        at = drawn(benign, batch, rng)
        alarm = torch.cat([_answers(black_box, made), known[at]])
        score: Tensor = network(torch.cat([made, benign[at]]))
        return imitation(score.squeeze(1), alarm)

    def deceive(_: nn.Module, network: nn.Module, __: Batch) -> Tensor:
        score: Tensor = network(evasive())
        return score.squeeze(1)

    descent = torch.optim.RMSprop(gan.generator.parameters(), lr=learning_rate)
    ascent = torch.optim.RMSprop(gan.discriminator.parameters(), lr=learning_rate)
    ascent.register_step_post_hook(lambda *_: _clip(gan.discriminator, clip))
    game = Game(
        Descent(gan.generator, descent, deceive),
        Critic(gan.discriminator, ascent, payoff, steps=critic_steps),
        payoff,
    )
    rounds(game, steps, progress)
    return gan.eval().requires_grad_(False)


def imitation(score: Tensor, alarm: Tensor) -> Tensor:
    """What the discriminator ascends, `[B]`: its mean is the mean score of the rows with an alarm less that of the rows
    without; where there are none of a kind, they count nothing.

    Args:
        score: the discriminator's `[B]`.
        alarm: the detector's answers, bool `[B]`.
    """
    flagged = alarm.sum()
    weight = torch.where(alarm, 1 / flagged, -1 / (len(alarm) - flagged))
    return score * (len(alarm) * weight).to(score.dtype)


def idsgan(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    gan: IdsGan,
    draws: int = 8,
    rng: torch.Generator | None = None,
) -> Tensor:
    """The attack of a trained IDSGAN: of x and so many draws, the row with the highest gain.

    Args:
        gain: `z [B, d] -> [B]`; it need not have a gradient. It is asked for x and once for each draw.
        x: malicious rows `[B, d]`.
        threat: where z may be.
        gan: trained, for a radius not far from this one.
        draws: changes to try for each x.
        rng: source of the noise, on the device of the gan.

    Returns:
        z `[B, d]`, allowed by the threat; x itself where nothing had a higher gain.
    """
    check_count("draws", draws)
    may = movable(threat, x)
    return highest(gain, x, threat, draws, lambda m: gan.wanted(m, threat, may, rng))


@torch.no_grad()
def _answers(black_box: Labels, rows: Tensor) -> Tensor:
    alarm = black_box(rows.detach())
    if alarm.shape != (len(rows),) or alarm.dtype != torch.bool:
        raise ValueError(
            f"The 'black_box' parameter must answer with bool [{len(rows)}]. "
            f"Got {alarm.dtype} {list(alarm.shape)} instead."
        )
    return alarm


@torch.no_grad()
def _clip(network: nn.Module, bound: float) -> None:
    for parameter in network.parameters():
        parameter.clamp_(-bound, bound)

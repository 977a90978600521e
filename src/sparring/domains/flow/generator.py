"""A generator of benign flows, and malicious flows that mimic what it generates: GADoT on flow features.

critic      max_D   E D(b) - E D(G(n)) - 10 E (||grad D(h)||_2 - 1)^2,    h between a benign row b and a made one
generator   max_G   E D(G(n))
attack      z = project(G(n), x) for a malicious row x: whatever of it may change becomes that of a made benign row
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from sparring.core.gain import Gain
from sparring.core.game import Batch, Game, play
from sparring.core.players import Critic, Descent
from sparring.core.standing import better, check_count, check_positive, floating
from sparring.core.threat import Threat


class Generator(nn.Module):
    """Rows of flows from noise: `forward` takes standard normal numbers `[B, noise]` to rows `[B, d]` in (0, 1).

    Args:
        d: coordinates of a row.
        noise: coordinates of the noise.
        width: of the two hidden layers.
        rng: source of the first weights, on the CPU.
    """

    def __init__(self, d: int, *, noise: int = 16, width: int = 64, rng: torch.Generator | None = None) -> None:
        super().__init__()
        self.noise = noise
        self.layers = perceptron(noise, width, width, d, rng=rng)

    def forward(self, noise: Tensor) -> Tensor:
        logits: Tensor = self.layers(noise)
        return logits.sigmoid()

    def draw(self, count: int, rng: torch.Generator | None = None) -> Tensor:
        """So many rows `[count, d]`, with random numbers on the generator's device."""
        rows: Tensor = self(normal(self, count, self.noise, rng))
        return rows


def fit(
    benign: Tensor,
    rng: torch.Generator | None = None,
    *,
    steps: int = 2000,
    batch: int = 128,
    noise: int = 16,
    width: int = 64,
    critic_steps: int = 5,
    penalty: float = 10.0,
    learning_rate: float = 1e-4,
    progress: Callable[[float], object] | None = None,
) -> Generator:
    """A generator whose rows a critic cannot tell from benign ones. Gulrajani et al., "Improved training of Wasserstein
    GANs", 2017, algorithm 1, with its penalty, critic steps and Adam(0, 0.9).

    That such a generator makes the adversarial rows is the idea of Abdelaty et al., "GADoT: GAN-based adversarial
    training for robust DDoS attack detection", 2022. Departs from it, as far as its abstract and summaries tell: the
    networks, their sizes and the sigmoid at the end are ours, and so are the rows, which are features of whole flows.

    Args:
        benign: rows `[N, d]` in [0, 1].
        rng: source of all that is random, on the device of `benign`.
        steps: of the generator.
        batch: rows of each kind in a step.
        noise: coordinates of the generator's input.
        width: of the two hidden layers, of generator and critic.
        critic_steps: of the critic before each step of the generator, each on rows of its own.
        penalty: weight of the gradient penalty.
        learning_rate: Adam's, of both.
        progress: told the share of the steps that is done, after each.

    Raises:
        ValueError: for a parameter out of its range, or without benign rows.
    """
    benign = rows_of("benign", benign)
    for name, count in (("steps", steps), ("batch", batch), ("noise", noise), ("width", width)):
        check_count(name, count)
    check_count("critic_steps", critic_steps)
    check_positive("penalty", penalty)
    check_positive("learning_rate", learning_rate)
    d = benign.shape[1]
    start = host(rng)
    generator = Generator(d, noise=noise, width=width, rng=start).to(benign)
    critic = perceptron(d, width, width, 1, rng=start).to(benign)

    def payoff(_: nn.Module, network: nn.Module, __: Batch) -> Tensor:
        real, made = benign[drawn(benign, batch, rng)], generator.draw(batch, rng)
        apart: Tensor = (network(real) - network(made)).squeeze(1)
        return apart - penalty * gradient_penalty(network, real, made, rng)

    def deceive(_: nn.Module, network: nn.Module, __: Batch) -> Tensor:
        score: Tensor = network(generator.draw(batch, rng))
        return -score.squeeze(1)

    game = Game(
        Descent(generator, _adam(generator, learning_rate), deceive),
        Critic(critic, _adam(critic, learning_rate), payoff, steps=critic_steps),
        payoff,
    )
    rounds(game, steps, progress)
    return generator.eval().requires_grad_(False)


def gradient_penalty(critic: nn.Module, real: Tensor, made: Tensor, rng: torch.Generator | None = None) -> Tensor:
    """(||grad D(h)||_2 - 1)^2 at a point h of the line from each real row to a made one, `[B]`; differentiable."""
    share = torch.rand((len(real), 1), generator=rng, device=real.device, dtype=real.dtype)
    between = (share * real + (1 - share) * made).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    slope: Tensor = torch.linalg.vector_norm(gradient, dim=1)
    return (slope - 1).square()


def mimic(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    generator: Generator,
    draws: int = 8,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Malicious rows that look like benign ones: GADoT's perturbation, as this library reads it.

    Departs from the paper: several rows are made for each x and the one with the highest gain is kept, and the threat,
    which here is a ball around x besides what may change, decides how much of it is taken over.

    Args:
        gain: `z [B, d] -> [B]`; it need not have a gradient. It is asked for x and once for each draw.
        x: malicious rows `[B, d]`.
        threat: where z may be.
        generator: of benign rows, as `fit` gives it.
        draws: made rows to try for each x.
        rng: source of the noise, on the device of the generator.

    Returns:
        z `[B, d]`, allowed by the threat; x itself where nothing had a higher gain.
    """
    check_count("draws", draws)
    return highest(gain, x, threat, draws, lambda z: generator.draw(len(z), rng))


@torch.no_grad()
def highest(gain: Gain, x: Tensor, threat: Threat, draws: int, wanted: Callable[[Tensor], Tensor]) -> Tensor:
    """Of x and so many `project(wanted(x), x)`, each row's with the highest gain."""
    best = x = floating(x)
    if len(x) == 0:
        return x
    record = gain(x)
    for _ in range(draws):
        z = threat.project(wanted(x).to(x), x)
        best, record = better(z, gain(z), best, record)
    return best


def rounds(game: Game, steps: int, progress: Callable[[float], object] | None) -> None:
    """Play so many rounds of a game whose players draw their own rows."""
    for step, _ in enumerate(play(game, (() for _ in range(steps)))):
        if progress is not None:
            progress((step + 1) / steps)


def perceptron(*widths: int, rng: torch.Generator | None) -> nn.Sequential:
    """Linear layers of these widths with leaky rectifiers (slope 0.2) between them, float32 on the CPU."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        nn.init.kaiming_normal_(linear.weight, a=0.2, generator=rng)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def rows_of(name: str, rows: Tensor) -> Tensor:
    """The rows, detached. Raises ValueError unless they are a matrix with a row or more, TypeError for integers."""
    if rows.dim() != 2 or len(rows) == 0:
        raise ValueError(f"The {name!r} parameter must have shape [N, d], N >= 1. Got {tuple(rows.shape)} instead.")
    return floating(rows)


def drawn(rows: Tensor, count: int, rng: torch.Generator | None) -> Tensor:
    """The numbers of so many of the rows, each as likely as any other and any number of times, int64 `[count]`."""
    return torch.randint(len(rows), (count,), generator=rng, device=rows.device)


def normal(module: nn.Module, rows: int, columns: int, rng: torch.Generator | None) -> Tensor:
    """Standard normal numbers of the module's device and dtype."""
    like = next(module.parameters())
    return torch.randn((rows, columns), generator=rng, device=like.device, dtype=like.dtype)


def host(rng: torch.Generator | None) -> torch.Generator | None:
    """A generator on the CPU that the given one determines: itself, if it is there."""
    if rng is None or rng.device.type == "cpu":
        return rng
    seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    return torch.Generator().manual_seed(seed)


def _adam(module: nn.Module, learning_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=learning_rate, betas=(0.0, 0.9))

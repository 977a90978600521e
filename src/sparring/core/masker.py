"""A network that learns where in an image its class is, from a classifier alone, and plays its masks beside an attack.

    min_M  ( f_y(x M(x)) - f_y(x (1 - M(x))) - 1 )^2 + lambda_1 mean |M(x)| + lambda_2 mean |grad M(x)|,   f = softmax

It looks for the smallest smooth region that keeps the class where the rest loses it, as the masker of ALIGN does (Hong
et al., AAAI 2026), whose weights and layers are not published: those here are ours.
"""

from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.game import Adversary, Batch, Move
from sparring.core.payoff import hard
from sparring.core.tools import Tools

WIDTH = 16
"""Channels of the masker's two hidden layers."""


def masker(channels: int, rng: torch.Generator | None, device: torch.device) -> nn.Module:
    """Three convolutions from an image `[B, C, H, W]` to a mask `[B, 1, H, W]` in (0, 1)."""
    layers = (
        *(nn.Conv2d(channels, WIDTH, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(WIDTH, 1, 1), nn.Sigmoid()),
    )
    network = nn.Sequential(*layers).to(device)
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=rng)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return network


def masking_loss(model: nn.Module, x: Tensor, y: Tensor, mask: Tensor, *, small: float, smooth: float) -> Tensor:
    """How far a mask `[B, 1, H, W]` is from showing the class and nothing else, `[B]`.

    Args:
        model: `[B, C, H, W] -> [B, K]` logits.
        x, y: images and their classes `[B]`.
        mask: in [0, 1].
        small: lambda_1, weight of the mask's mean.
        smooth: lambda_2, weight of its mean absolute difference between neighbours.
    """
    shown, hidden = (model(part).softmax(dim=1).gather(1, y[:, None]).squeeze(1) for part in (x * mask, x * (1 - mask)))
    rough = mask.diff(dim=2).abs().mean((1, 2, 3)) + mask.diff(dim=3).abs().mean((1, 2, 3))
    loss: Tensor = (shown - hidden - 1).square() + small * mask.mean((1, 2, 3)) + smooth * rough
    return loss


class WithMask:
    """An adversary and a masker that learns beside it: the move is `(the adversary's move, masks [B, H, W])`.

    The masker takes one step on every batch, against the model as attacks see it, before it answers.

    Args:
        adversary: plays the first part of the move.
        tools: of the game: how to see the model and differentiate, and the source of the masker's first weights.
        learning_rate: of its Adam.
        small, smooth: of `masking_loss`.
    """

    def __init__(
        self,
        adversary: Adversary,
        *,
        tools: Tools,
        learning_rate: float = 1e-3,
        small: float = 0.1,
        smooth: float = 0.1,
    ) -> None:
        self.adversary, self.tools, self.learning_rate = adversary, tools, learning_rate
        self.small, self.smooth = small, smooth
        self.network: nn.Module | None = None  # made for the first batch, which says how many channels there are
        self._saved: dict[str, Any] = {}

    def respond(self, model: nn.Module, batch: Batch) -> tuple[Move, Tensor]:
        x, y = batch[0], hard(batch[1])
        network = self.network or self._made(x)
        network.requires_grad_(True)
        with self.tools.view(model) as seen:
            loss = masking_loss(seen, x, y, network(x), small=self.small, smooth=self.smooth).mean()
            self.optimizer.zero_grad(set_to_none=True)
            self.tools.backward(loss)
        self.optimizer.step()
        network.requires_grad_(False)
        mask: Tensor = network(x).squeeze(1)
        return self.adversary.respond(model, batch), mask

    def _made(self, x: Tensor) -> nn.Module:
        self.network = masker(x.shape[1], self.tools.rng, x.device).to(x.dtype)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)
        if self._saved:
            self.network.load_state_dict(self._saved["network"])
            self.optimizer.load_state_dict(self._saved["optimizer"])
        return self.network

    def state_dict(self) -> dict[str, Any]:
        """The masker and its optimiser; what was loaded, or nothing, before the first batch."""
        if self.network is None:
            return self._saved
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from what `state_dict` gave, from the next batch on."""
        self.network, self._saved = None, state

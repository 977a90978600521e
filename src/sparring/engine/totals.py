"""What the learner reports of every step, added up over an epoch without waiting for the device."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sparring.core.game import Metrics
from sparring.engine.machines import Team


class Totals:
    """Sums of a learner's metrics over the steps of an epoch, of this process's share.

    Args:
        device: where they are added up.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.clear()

    def clear(self) -> None:
        """Begin an epoch."""
        self._sums: dict[str, Tensor] = {"loss": torch.zeros((), device=self._device)}

    def add(self, metrics: Metrics, weight: float) -> None:
        """One step more, which counts as much as this process's share of its batch."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * weight

    def means(self, team: Team, steps: int) -> dict[str, float]:
        """By metric, its mean over the steps of the epoch and over all processes."""
        return {name: value.item() / steps for name, value in self.state(team).items()}

    def state(self, team: Team) -> dict[str, Tensor]:
        """The sums over all processes, which report the same metrics."""
        return {name: team.sum(self._sums[name]) for name in sorted(self._sums)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from sums."""
        self._sums = {name: value.to(self._device) for name, value in state.items()}

    def copy(self) -> dict[str, Tensor]:
        """The sums of this process, as they are now."""
        return {name: value.clone() for name, value in self._sums.items()}

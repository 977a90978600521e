"""One round of a game played by several processes as if it were one: shares of a batch, and one gradient from them.

Every process deals the whole batch and plays every n-th example of it. The learner's pass goes through DDP, or a
sharded model, whose backward pass averages the gradients; each mean loss is weighted by its share first, so that the
average is the gradient of the mean over the whole batch, however it divides. The attack never meets DDP: it is given
the module inside.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sparring.core.game import Adversary, Batch, Game, Move, Stateful
from sparring.core.seeds import derive
from sparring.core.standing import DeadStartError
from sparring.engine import sharding
from sparring.engine.fast import Choice
from sparring.engine.machines import Machines, Team

_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # what torch calls it from 2.13 on, and before
    if name in inspect.signature(DistributedDataParallel.__init__).parameters
)


class Parallel(DistributedDataParallel):
    """DDP whose copies are plain: a game's twin of the model has the model's own names, and its gradients are averaged
    by `Share.backward`."""

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        bare: nn.Module = copy.deepcopy(self.module, memo)
        return bare


def spread(model: nn.Module, team: Team, machines: Machines, choice: Choice) -> tuple[nn.Module, nn.Module | None]:
    """Make a model ready to be trained by several processes.

    Args:
        model: on the device of this process.
        team: the processes; where it is one, nothing is done.
        machines: whether to shard, and whether to normalise batches over all processes.
        choice: the memory layout has to be settled before gradients get their buckets.

    Returns:
        The model, and what its learner trains through (DDP); None where that is the model itself.
    """
    if team.world == 1:
        return model, None
    if machines.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if machines.sharded:
        sharding.shard(model, team)
        return model, None
    if choice.learner.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ids = [team.device.index] if team.device.type == "cuda" else None
    settings: dict[str, Any] = {_BUFFERS: False}
    # Running statistics are not exchanged in forward passes but by `level`, between rounds: a learner may forward twice
    # before it differentiates (TRADES), and what the first pass saved must not change under it.
    return model, Parallel(model, device_ids=ids, **settings)


@dataclass
class Share:
    """The part of every batch that this process plays.

    Args:
        team: the processes.
        seed: of the run.
        own: the parameters that DDP (or sharding) averages by itself.
        foreign: whether a player may hold further networks, whose gradients are averaged here.
        weight: of this process's mean loss in the mean over the batch that `of` was given last.
    """

    team: Team
    seed: int
    own: frozenset[int] = frozenset()
    foreign: bool = False
    weight: float = field(default=1.0, init=False)

    def of(self, batch: Batch, step: int, rng: torch.Generator) -> Batch:
        """Every `world`-th example from the `rank`-th on; rng and torch's generator then differ by process.

        A batch too small to give every process two examples (BatchNorm's least) is played whole by each of them.
        """
        team = self.team
        if team.world == 1:
            return batch
        rng.manual_seed(derive(self.seed, "game", step, team.rank))
        torch.manual_seed(derive(self.seed, "model", step, team.rank))
        whole = len(batch[0])
        if whole < 2 * team.world:
            self.weight = 1 / team.world
            return batch
        part = tuple(tensor[team.rank :: team.world] for tensor in batch)
        self.weight = len(part[0]) / whole
        return part

    def backward(self, loss: Tensor) -> None:
        """Differentiate a mean over this share, so that what is left is the gradient of the mean over the batch."""
        others = list(_leaves(loss, self.own)) if self.foreign else []
        (loss * (self.weight * self.team.world)).backward()
        gradients = [p.grad for p in others if p.grad is not None]
        _at_once(gradients, dist.all_reduce)
        for gradient in gradients:
            gradient /= self.team.world


def level(model: nn.Module, team: Team) -> None:
    """Give every process the first one's buffers: BatchNorm's running statistics."""
    if team.world > 1:
        _at_once(list(model.buffers()), lambda flat: dist.broadcast(flat, 0))


@dataclass(frozen=True)
class Concerted:
    """An adversary whose failure is everybody's: where one process stopped alone, the others would wait for it.

    A share whose gradient has vanished is played clean; DeadStartError is raised, in every process, where it has
    vanished in all of them.
    """

    adversary: Adversary
    team: Team

    def respond(self, model: nn.Module, batch: Batch) -> Move:
        error: DeadStartError | None = None
        move: Move = batch[0]
        try:
            move = self.adversary.respond(model, batch)
        except DeadStartError as dead:
            error = dead
        alive = self.team.sum(torch.tensor(float(error is None), device=batch[0].device)).item()
        if not alive and error is not None:
            raise error
        return move


def concerted(game: Game, team: Team) -> Game:
    """The game with a `Concerted` adversary."""
    return replace(game, adversary=Concerted(game.adversary, team)) if team.world > 1 else game


def stateful(game: Game) -> list[Stateful]:
    """The players that carry more from round to round than the model and its optimiser."""
    return [player for player in (game.learner, game.adversary) if isinstance(player, Stateful)]


def all_finite(model: nn.Module, team: Team) -> bool:
    """Whether every weight is a number, in every process."""
    fine = all(bool(sharding.local(p).isfinite().all()) for p in model.parameters())
    return team.most(float(not fine)) == [0.0]


def _leaves(loss: Tensor, own: frozenset[int]) -> Iterator[nn.Parameter]:
    """The parameters that a loss depends on, but for `own`, in the order of the graph: the same in every process."""
    seen, stack = set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter) and id(leaf) not in own:
            yield leaf
        stack += [child for child, _ in node.next_functions]


def _at_once(tensors: Iterable[Tensor], exchange: Callable[[Tensor], object]) -> None:
    """One exchange for all tensors of a dtype instead of one for each."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    with torch.no_grad():
        for group in by_type.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            exchange(flat)
            for tensor, part in zip(group, flat.split([t.numel() for t in group]), strict=True):
                tensor.copy_(part.view_as(tensor))

"""A model too large for one device: its parameters spread over the processes (FSDP, torch's `fully_shard`).

Every forward and backward pass gathers the parameters block by block, the attack's too, so all processes have to make
the same passes in the same order. What is saved is whole, as one process would have saved it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sparring.core.game import Game, Stateful
from sparring.core.view import Speed
from sparring.engine.fast import Choice
from sparring.engine.machines import Team


def shard(model: nn.Module, team: Team) -> None:
    """Spread the parameters of a model over the processes, in place, block by block.

    Each block is let go again after its forward pass, the outermost too: a parameter that stayed gathered would keep
    the `requires_grad` that an attack gave it.
    """
    mesh = init_device_mesh(team.device.type, (team.world,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The parts that are gathered one at a time: a model's children, and in lists of modules their members."""
    for child in model.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from blocks(child)
        elif not isinstance(child, nn.ModuleDict) and any(True for _ in child.parameters()):
            yield child


def choice(precision: str) -> Choice:
    """How a sharded model computes: as it is, or under autocast. It cannot be copied, so the attack has no view."""
    note = "a sharded model is seen by the attack as it is"
    return Choice(learner=Speed(bfloat16=precision == "bf16"), note=note)


def game(make: Callable[[], Game], name: str) -> Game:
    """A system's game over a sharded model. Raises ValueError for one that copies it or holds further networks."""
    try:
        made = make()
    except AssertionError as error:  # "FSDP does not support deepcopy"
        if "deepcopy" not in str(error):
            raise
        made = None
    if made is None or any(isinstance(player, Stateful) for player in (made.learner, made.adversary)):
        raise ValueError(
            f"The 'strategy' parameter must be 'ddp' for {name}, whose players hold more than the model. Got 'fsdp'."
        )
    return made


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that is here."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tree: Any) -> Any:
    """A nested state with every tensor on the CPU, sharded ones made whole: all processes have to ask at once."""
    if isinstance(tree, DTensor):
        tree = tree.full_tensor()
    if isinstance(tree, Tensor):
        return tree.cpu()
    if isinstance(tree, dict):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole(value) for value in tree)
    return tree


@torch.no_grad()
def load(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a whole state dict into a model that may be sharded."""
    own = model.state_dict()
    if not any(isinstance(tensor, DTensor) for tensor in own.values()):
        model.load_state_dict(state)
        return
    for name, tensor in own.items():
        tensor.copy_(_like(state[name].to(tensor.device), tensor))


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the whole state of an optimiser over parameters that may be sharded."""
    optimizer.load_state_dict(state)
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[name] = _like(value, parameter)


def _like(value: Tensor, other: Tensor) -> Tensor:
    if not isinstance(other, DTensor):
        return value
    return distribute_tensor(value, other.device_mesh, other.placements)

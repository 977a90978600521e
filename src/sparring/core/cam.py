"""Grad-CAM: where in its last feature map a classifier finds what speaks for a class, differentiable where it must be.

    alpha_k = mean_ij d logit_y / d A_kij,     CAM_ij = max(0, sum_k alpha_k A_kij)

Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", 2017, eq. 1 and 2.
One forward pass gives the logits and the map; the map costs a backward pass from the logits to the layer, no further.
"""

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 4
"""The least height and width of a feature map that a layer is chosen for: a coarser one tells no places apart."""

ROOM = 1e-8
"""What keeps the scale of a constant map from being zero."""


def last_map(model: nn.Module, x: Tensor) -> str:
    """The name of the module whose output is the last feature map `[B, k, h, w]` with h and w of at least 4.

    Where every map is coarser, the last of them; a block counts after its parts, and a module that is called twice
    does not. The model is asked in eval mode and left as it was.

    Args:
        model: `[B, C, H, W] -> [B, K]`.
        x: any inputs for it.

    Raises:
        ValueError: where no module answers with a feature map.
    """
    found: list[tuple[str, bool]] = []

    def note(name: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1:
                found.append((name, min(output.shape[2:]) >= SMALLEST))

        handles.append(module.register_forward_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    modes = [(module, module.training) for module in model.modules()]
    try:
        for name, module in model.named_modules():
            if name:
                note(name, module)
        for module, _ in modes:
            module.training = False
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    calls = Counter(name for name, _ in found)
    once = [(name, large) for name, large in found if calls[name] == 1]
    if not once:
        raise ValueError("Grad-CAM needs a model with a feature map [B, k, h, w], h and w above 1. This one has none.")
    fine = [name for name, large in once if large]
    return fine[-1] if fine else once[-1][0]


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """The module of this name, or the one whose name ends in it where the model is wrapped (DDP, a view).

    Raises ValueError, with the names there are, where it has none.
    """
    modules = dict(model.named_modules())
    found = [each for each in modules if each == name] or [each for each in modules if each.endswith(f".{name}")]
    if not name or len(found) != 1:
        known = ", ".join(each for each in modules if each)
        raise ValueError(f"The 'layer' parameter must be the name of a module: {known}. Got {name!r} instead.")
    layer: nn.Module = modules[found[0]]
    return layer


def grad_cam(
    model: nn.Module, x: Tensor, target: Tensor, layer: nn.Module, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """The logits and the map of a class, from one forward pass in whatever mode the model is in.

    Args:
        model: `[B, C, H, W] -> [B, K]` logits.
        x: inputs `[B, C, H, W]`.
        target: the explained class `[B]`.
        layer: the module of the model that answers with the feature map; called once in a forward pass.
        create_graph: whether gradients of the map reach the model and x. Then they do so by both ways, through the
            activations A and through their weights alpha, which is a second derivative.

    Returns:
        Logits `[B, K]` and maps `[B, h, w]`, at least 0. The logits have their graph wherever grad mode is on.

    Raises:
        ValueError: where the layer does not answer with one feature map `[B, k, h, w]`.
    """
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        if not output.requires_grad:  # a frozen model on inputs without gradient: the map is a leaf of its own
            output = output.detach().requires_grad_(True)
        seen.append(output)
        return output.clone()  # an activation in place after the layer must not reach what is kept

    handle = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits: Tensor = model(x)
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0].dim() != 4:
        got = ", ".join(str(list(each.shape)) for each in seen) or "nothing"
        raise ValueError(f"The layer must answer once, with a feature map [B, k, h, w]. It answered with {got}.")
    (activation,) = seen
    with torch.enable_grad():
        score = logits.gather(1, target[:, None]).sum()
        (slope,) = torch.autograd.grad(score, activation, create_graph=create_graph, retain_graph=True)
        wide = torch.promote_types(activation.dtype, torch.float32)
        cam = F.relu((slope.to(wide).mean((2, 3), keepdim=True) * activation.to(wide)).sum(1))
    return logits, cam if create_graph else cam.detach()


def normalised(cam: Tensor) -> Tensor:
    """Each map on its own scale from 0 to 1, `[B, h, w]`; a constant map becomes zero everywhere."""
    low, high = cam.amin((1, 2), keepdim=True), cam.amax((1, 2), keepdim=True)
    return (cam - low) / (high - low + ROOM)


def alive(cam: Tensor) -> Tensor:
    """Which maps say anything, bool `[B]`: one that is nowhere above zero has no place to point at."""
    return cam.amax((1, 2)) > 0

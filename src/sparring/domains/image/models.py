"""Image classifiers from pixels in [0, 1] to logits `[B, K]`; normalisation is their first layer, so eps is in pixels.

Also models by name, a user's own, and a check that a model answers as one of these would.
"""

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core.gradient import frozen
from sparring.domains.image import resnet

Shape = tuple[int, int, int]

SPECS = ("small-conv", "small-strided", "resnet18", "preact-resnet18", "wrn-28-10")
"""The names that `build` knows; any `wrn-D-W` with D = 6n + 4 will do."""


class ModelError(ValueError):
    """A model that does not exist, cannot be built, or does not answer with logits."""


class Normalize(nn.Module):
    """(x - mean) / std per channel.

    Args:
        mean, std: one per channel, in pixels in [0, 1]; std > 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ModelError(f"'mean' and 'std' must be one number per channel, std > 0. Got {mean!r} and {std!r}.")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class _PreActivated(nn.Module):
    """BN-ReLU-conv3x3 twice, plus the identity, or a 1x1 convolution of the first activation if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        skip = x if self.shortcut is None else self.shortcut(active)
        residual: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return residual + skip


def small_conv(shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Two convolutions 3x3 (32, 64), each with ReLU and 2x2 max-pooling, a hidden layer of 128, no BatchNorm.

    For small images (at least 4x4): 53,002 parameters on 8x8 digits, 421,642 on MNIST.
    """
    C, H, W = _checked(shape, classes, mean)
    if min(H, W) < 4:
        raise ModelError(f"small-conv needs images of at least 4x4 pixels. Got {H}x{W}.")
    return _initialised(
        nn.Sequential(
            Normalize(mean, std),
            *(nn.Conv2d(C, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * (H // 4) * (W // 4), 128), nn.ReLU(), nn.Linear(128, classes)),
        )
    )


def small_strided(shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """Two convolutions 4x4 (16 with stride 2, 32), each with ReLU, a hidden layer of 100; no pooling and no BatchNorm.

    The network "small" of Gowal et al., "On the effectiveness of interval bound propagation", 2018, table 1: what
    interval and linear bounds are tight on. 470,918 parameters on CIFAR-10 (theirs: 471K). Convolutions are unpadded,
    as that count says; images under 10 pixels are padded by one, down to 4x4: 38,406 parameters on 8x8 digits.
    """
    C, H, W = _checked(shape, classes, mean)
    if min(H, W) < 4:
        raise ModelError(f"small-strided needs images of at least 4x4 pixels. Got {H}x{W}.")
    padding = 0 if min(H, W) >= 10 else 1
    h, w = (((side + 2 * padding - 4) // 2 + 1) + 2 * padding - 3 for side in (H, W))
    return _initialised(
        nn.Sequential(
            Normalize(mean, std),
            *(nn.Conv2d(C, 16, 4, 2, padding), nn.ReLU(), nn.Conv2d(16, 32, 4, 1, padding), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * h * w, 100), nn.ReLU(), nn.Linear(100, classes)),
        )
    )


def resnet18(shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """The post-activation ResNet-18 for small images: 64 to 512 channels, 11,173,962 parameters on CIFAR-10."""
    C, _, _ = _checked(shape, classes, mean)
    return _initialised(nn.Sequential(Normalize(mean, std), *resnet.stages(C), *_head(512, classes)))


def preact_resnet18(shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """The pre-activation ResNet-18 for small images: a 3x3 stem and four stages of two blocks, 64 to 512 channels.

    He et al., "Identity mappings in deep residual networks", 2016, with the BatchNorm and ReLU that the paper puts
    after the last block: without them the head reads an unnormalised sum of all blocks, and SGD at 0.1 diverges.
    """
    C, _, _ = _checked(shape, classes, mean)
    widths = (64, 64, 128, 256, 512)
    layers: list[nn.Module] = [nn.Conv2d(C, 64, 3, padding=1, bias=False)]
    for stage in range(4):
        layers += _stage(widths[stage], widths[stage + 1], blocks=2, stride=1 if stage == 0 else 2)
    layers += [nn.BatchNorm2d(512), nn.ReLU()]
    return _initialised(nn.Sequential(Normalize(mean, std), *layers, *_head(512, classes)))


def wide_resnet(
    shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float], *, depth: int = 28, width: int = 10
) -> nn.Module:
    """WRN-depth-width: three stages of (depth - 4) / 6 pre-activation blocks with 16, 32, 64 times `width` channels.

    Zagoruyko & Komodakis, "Wide residual networks", 2016, without dropout; WRN-28-10 has 36,479,194 parameters on
    CIFAR-10.

    Args:
        shape: `(C, H, W)` of an image.
        classes: K.
        mean, std: of each channel, in pixels in [0, 1].
        depth: convolutions, 6n + 4 with n >= 1.
        width: factor of the channels, at least 1.
    """
    C, _, _ = _checked(shape, classes, mean)
    if depth < 10 or (depth - 4) % 6:
        raise ModelError(f"The 'depth' parameter must be 6n + 4 with n >= 1 (10, 16, 22, ...). Got {depth} instead.")
    if width < 1:
        raise ModelError(f"The 'width' parameter must be an int in the range [1, inf). Got {width} instead.")
    widths = (16, 16 * width, 32 * width, 64 * width)
    layers: list[nn.Module] = [nn.Conv2d(C, 16, 3, padding=1, bias=False)]
    for stage in range(3):
        layers += _stage(widths[stage], widths[stage + 1], blocks=(depth - 4) // 6, stride=1 if stage == 0 else 2)
    layers += [nn.BatchNorm2d(widths[3]), nn.ReLU()]
    return _initialised(nn.Sequential(Normalize(mean, std), *layers, *_head(widths[3], classes)))


def build(spec: str, shape: Shape, classes: int, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """The model of this name (`SPECS`), initialised from torch's global generator."""
    if spec == "small-conv":
        return small_conv(shape, classes, mean, std)
    if spec == "small-strided":
        return small_strided(shape, classes, mean, std)
    if spec == "resnet18":
        return resnet18(shape, classes, mean, std)
    if spec == "preact-resnet18":
        return preact_resnet18(shape, classes, mean, std)
    if wide := re.fullmatch(r"wrn-(\d+)-(\d+)", spec):
        return wide_resnet(shape, classes, mean, std, depth=int(wide[1]), width=int(wide[2]))
    near = difflib.get_close_matches(spec, SPECS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ModelError(f"The model must be one of {', '.join(SPECS)}, or wrn-D-W. Got {spec!r}.{hint}")


def from_factory(path: str, shape: Shape, classes: int) -> nn.Module:
    """A user's own model: `factory(...)` of `package.module:factory`, found on `sys.path` or in the current directory.

    The factory is given `shape` `(C, H, W)` and `classes` as keywords, whichever of the two its signature accepts.

    Raises:
        ModelError: when there is no such factory, it fails, or what it returns is not an `nn.Module`.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise ModelError(f"A model factory must be written 'package.module:factory'. Got {path!r}.")
    with _current_directory():
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # the module's own code runs here
            raise ModelError(f"The module of {path!r} cannot be imported: {type(error).__name__}: {error}") from error
        factory = getattr(module, name, None)
        if not callable(factory):
            raise ModelError(f"The module {module_name!r} must have a callable named {name!r}. Got {factory!r}.")
        try:
            model = factory(**_accepted(factory, {"shape": shape, "classes": classes}))
        except Exception as error:
            raise ModelError(f"The factory {path!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"The factory {path!r} must return an nn.Module. Got {type(model).__name__}.")
    return model


def check_output(model: nn.Module, shape: Shape, classes: int) -> None:
    """That the model answers two black images with floating-point logits `[2, classes]`; it is left as it was.

    Raises:
        ModelError: when it fails on them or answers with anything else.
    """
    at = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    try:
        with frozen(model), torch.no_grad():
            logits: object = model(torch.zeros(2, *shape, device=at))
    except Exception as error:
        raise ModelError(f"The model fails on images of shape {[2, *shape]}: {error}") from error
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or list(logits.shape) != [2, classes]:
        got = f"{logits.dtype} of {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"The model must answer two images with float logits of shape {[2, classes]}. Got {got}.")


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> list[nn.Module]:
    return [_PreActivated(inputs, outputs, stride), *(_PreActivated(outputs, outputs, 1) for _ in range(blocks - 1))]


def _head(features: int, classes: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)


def _initialised(model: nn.Module) -> nn.Module:
    """Kaiming's normal initialisation ("Delving deep into rectifiers", 2015); biases are zero.

    The head starts at a tenth of it: logits that start large are confidently wrong under attack, and PGD-AT then flees
    to a constant answer from which no gradient leads back (measured on CIFAR-10 at 8/255: docs/log.md).
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for module in layers:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        layers[-1].weight.mul_(0.1)
    return model


def _checked(shape: Shape, classes: int, mean: Sequence[float]) -> Shape:
    if len(shape) != 3 or min(shape) < 1:
        raise ModelError(f"The 'shape' parameter must be (C, H, W), each at least 1. Got {shape!r} instead.")
    if classes < 1:
        raise ModelError(f"The 'classes' parameter must be an int in the range [1, inf). Got {classes!r} instead.")
    if len(mean) != shape[0]:
        raise ModelError(f"'mean' and 'std' must have a number for each of {shape[0]} channels. Got {len(mean)}.")
    return shape


def _accepted(factory: Any, offered: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return offered
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    return {key: value for key, value in offered.items() if key in named}


@contextmanager
def _current_directory() -> Iterator[None]:
    """The current directory is importable, behind everything that already is."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)

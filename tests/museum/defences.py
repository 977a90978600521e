"""Broken defences, each a small real implementation of a published idea, on 8x8 digits.

Every one of them reports more robustness than it has. The papers that broke them: Carlini & Wagner, "Towards
evaluating the robustness of neural networks", 2017; Athalye et al., "Obfuscated gradients give a false sense of
security", 2018; Tramer et al., "On adaptive attacks to adversarial example defenses", 2020; Croce et al., "Evaluating
the adversarial robustness of adaptive test-time defenses", 2022.
"""

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

Step = Callable[[Tensor], Tensor]


def bit_depth(x: Tensor, bits: int = 2) -> Tensor:
    """Fewer grey levels. Xu et al., "Feature squeezing: detecting adversarial examples in deep neural networks",
    2018."""
    levels = 2**bits - 1
    return (x * levels).round() / levels


def jpeg(x: Tensor, quality: int = 40) -> Tensor:
    """There and back through a JPEG file. Guo et al., "Countering adversarial images using input transformations",
    2018. An 8x8 image is one block, and blocks do not touch each other: the whole batch is one strip of pixels."""
    strip = (255 * x.detach()).round().to(torch.uint8).reshape(-1, 8).numpy()
    file = io.BytesIO()
    Image.fromarray(strip).save(file, "jpeg", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).to(x.dtype).reshape(x.shape) / 255


def thermometer(x: Tensor, levels: int = 8) -> Tensor:
    """`[B, 1, H, W]` as `[B, levels, H, W]`: which thresholds each pixel is above. Buckman et al., "Thermometer
    encoding: one hot way to resist adversarial examples", 2018."""
    thresholds = (torch.arange(levels, dtype=x.dtype) + 0.5) / levels
    return (x > thresholds[:, None, None]).to(x.dtype)


def slope_of_thermometer(x: Tensor, levels: int = 8) -> Tensor:
    """What stands in for it backwards, as in Athalye et al. 2018: ramps, here as wide as three levels."""
    thresholds = (torch.arange(levels, dtype=x.dtype) + 0.5) / levels
    return ((x - thresholds[:, None, None]) * levels / 3 + 0.5).clamp(0, 1)


class First(nn.Module):
    """A step before a model."""

    def __init__(self, step: Step, inner: nn.Module) -> None:
        super().__init__()
        self.step, self.inner = step, inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.step(x))


class Scaled(nn.Module):
    """Logits times 10 000: the softmax is one or zero, and its gradient nothing. The numerical trick behind defensive
    distillation, alone (Carlini & Wagner 2017)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.inner(x)


class Probabilities(nn.Module):
    """Answers after the softmax."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).softmax(1)


class Saturating(nn.Module):
    """A steep sigmoid: flat on both sides. Nayebi & Ganguli, "Biologically inspired protection of deep networks from
    adversarial attacks", 2017; undone by Brendel & Bethge's comment of the same year. The slope grows in training."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = 1.0

    def forward(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.slope * u)


class Winners(nn.Module):
    """The largest tenth of a layer's activations, and zero for the rest. Xiao et al., "Enhancing adversarial defense by
    k-winners-take-all", 2020, equation 1."""

    def __init__(self, share: float = 0.1) -> None:
        super().__init__()
        self.share = share

    def forward(self, u: Tensor) -> Tensor:
        flat = u.flatten(1)
        k = max(1, round(self.share * flat.shape[1]))
        least = flat.topk(k, dim=1).values[:, -1:]
        return torch.where(flat >= least, flat, 0.0).reshape(u.shape)


class RandomResize(nn.Module):
    """Another size and place for every input and every call, and noise. Xie et al., "Mitigating adversarial effects
    through randomization", 2018."""

    def __init__(self, inner: nn.Module, noise: float = 0.1) -> None:
        super().__init__()
        self.inner, self.noise = inner, noise

    def forward(self, x: Tensor) -> Tensor:
        size = 1.0 + 0.3 * torch.rand(len(x))  # the frame is so many times as wide as the image in it
        place = (2 * torch.rand(len(x), 2) - 1) * (size - 1)[:, None]
        grid = torch.zeros(len(x), 2, 3)
        grid[:, 0, 0] = grid[:, 1, 1] = size
        grid[:, :, 2] = place
        moved = F.grid_sample(x, F.affine_grid(grid, list(x.shape), align_corners=False), align_corners=False)
        return self.inner(moved + self.noise * torch.randn_like(moved))


class Dropping(nn.Module):
    """Dropout that is not switched off. Wang et al., "Defensive dropout for hardening deep neural networks under
    adversarial attacks", 2018."""

    def forward(self, u: Tensor) -> Tensor:
        return F.dropout(u, 0.3, training=True)


class Vote(nn.Module):
    """How many members vote for each class. Strauss et al., "Ensemble methods as a defense to adversarial
    perturbations against deep neural networks", 2017, with its majority vote."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        answers = torch.stack([member(x) for member in self.members])
        return F.one_hot(answers.argmax(2), answers.shape[2]).sum(0).to(x.dtype)

    def soft(self, x: Tensor) -> Tensor:
        """The sum of the members' probabilities, which has a gradient."""
        return torch.stack([member(x).softmax(1) for member in self.members]).sum(0)


class HalfDetached(nn.Module):
    """The sum of two models, of which the larger part runs without gradients: as a cached or quantised branch does."""

    def __init__(self, seen: nn.Module, unseen: nn.Module, *, detached: bool = True) -> None:
        super().__init__()
        self.seen, self.unseen, self.detached = seen, unseen, detached

    def repaired(self) -> "HalfDetached":
        return HalfDetached(self.seen, self.unseen, detached=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.unseen(x)
        return 0.1 * self.seen(x) + (hidden.detach() if self.detached else hidden)


class AntiAdversary(nn.Module):
    """Steps towards its own first answer before it answers. Alfarra et al., "Combating adversaries with
    anti-adversaries", 2022, algorithm 1; examined by Croce et al. 2022."""

    def __init__(self, inner: nn.Module, steps: int = 2, size: float = 0.15) -> None:
        super().__init__()
        self.inner, self.steps, self.size = inner, steps, size

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            first = self.inner(x.detach()).argmax(1)
            move = torch.zeros_like(x)
            for _ in range(self.steps):
                here = (x.detach() + move).requires_grad_(True)
                loss = F.cross_entropy(self.inner(here), first, reduction="sum")
                move = move - self.size * torch.autograd.grad(loss, here)[0].sign()
        return self.inner(x + move)


class Guarded(nn.Module):
    """Refuses inputs that an autoencoder cannot rebuild: the detector of Meng & Chen, "MagNet: a two-pronged defense
    against adversarial examples", 2017, with principal components for its autoencoder; broken by Carlini & Wagner,
    "MagNet and 'Efficient defenses against adversarial attacks' are not robust to adversarial examples", 2017.

    Args:
        inner: `[B, ...] -> [B, K]` logits.
        mean, basis: of the data, `[d]` and `[d, components]`.
        threshold: the root mean square error above which an input is refused.
        hard: the refusal's logit is 10 above or below all others, whatever the error: no gradient leads out of it.
            Otherwise it is above the largest by 100 times what the error is above the threshold: the same refusals,
            with a slope.
    """

    def __init__(self, inner: nn.Module, mean: Tensor, basis: Tensor, threshold: float, *, hard: bool) -> None:
        super().__init__()
        self.inner, self.mean, self.basis, self.threshold, self.hard = inner, mean, basis, threshold, hard

    @classmethod
    def on(cls, inner: nn.Module, x: Tensor, *, components: int = 30) -> "Guarded":
        """One that refuses five per cent of these inputs."""
        mean = x.flatten(1).mean(0)
        basis = torch.linalg.svd(x.flatten(1) - mean, full_matrices=False).Vh[:components].T
        guard = cls(inner, mean, basis, 0.0, hard=True)
        guard.threshold = guard.error(x).quantile(0.95).item()
        return guard

    def error(self, x: Tensor) -> Tensor:
        d = x.flatten(1) - self.mean
        return (d - d @ self.basis @ self.basis.T).square().mean(1).sqrt()

    def softened(self) -> "Guarded":
        return Guarded(self.inner, self.mean, self.basis, self.threshold, hard=False)

    def forward(self, x: Tensor) -> Tensor:
        logits, beyond = self.inner(x), self.error(x) - self.threshold
        if self.hard:
            refusal = torch.where(beyond > 0, logits.amax(1) + 10, logits.amin(1) - 10).detach()
        else:
            refusal = logits.amax(1) + 100 * beyond
        return torch.cat([logits, refusal[:, None]], 1)

"""Contrast, elastic transform, pixelation and JPEG at five severities; see `sparring.domains.image.corruptions`."""

from io import BytesIO

import numpy as np
import torch
from torch import Tensor

from sparring.domains.image.corruptions_setting import setting, shown, uniform
from sparring.domains.image.filtering import blurred, box_weights, sampled


def contrast(x: Tensor, severity: int, _rng: torch.Generator) -> Tensor:
    """Each channel drawn towards its mean. The constant is the share of the contrast that is left."""
    share, _, wide = setting(x, severity, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05))
    mean = wide.mean((2, 3), keepdim=True)
    return shown((wide - mean) * share + mean, x)


def elastic_transform(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    """The image read at places moved by a random affine map, and that again at places moved by smooth noise.

    The constants are the height of the noise, the sigma of its smoothing, and how far three points of the affine map
    move at most. As published, rising severity trades the affine map for the noise: distances between pixel values
    fall while the image is ever more torn.
    """
    small = ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    large = ((2.0, 0.7, 0.1), (2.0, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    px = [[tuple(unit * c for c in row) for row in table] for table, unit in ((small, 32), (large, 244))]
    (height, sigma, far), scale, wide = setting(x, severity, *px)
    B, _, H, W = x.shape
    rows = torch.arange(H, dtype=wide.dtype, device=x.device)[:, None].expand(B, H, W)
    columns = torch.arange(W, dtype=wide.dtype, device=x.device).expand(B, H, W)
    z = sampled(wide, *_affine(rows, columns, far * scale, rng))
    down, right = (_waves(wide, height * scale, sigma * scale, rng) for _ in range(2))
    return shown(sampled(z, rows + down, columns + right), x)


def _affine(rows: Tensor, columns: Tensor, far: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places `[B, H, W]` under, for each image, the affine map that brings three points around the middle back from
    where they went: each up to `far` pixels, uniformly, in both directions."""
    B, H, W = rows.shape
    reach = max(1, min(H, W) // 3)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], dtype=rows.dtype, device=rows.device)
    before = (corners * reach + corners.new_tensor([H // 2, W // 2])).expand(B, 3, 2)
    after = before + uniform((B, 3, 2), -far, far, rows, rng)
    ones = torch.ones_like(after[..., :1])
    affine = torch.linalg.solve(torch.cat([after, ones], 2), before)  # [B, 3, 2]
    places = torch.stack([rows, columns, torch.ones_like(rows)], 3).flatten(1, 2) @ affine
    return places[..., 0].view_as(rows), places[..., 1].view_as(rows)


def _waves(x: Tensor, height: float, sigma: float, rng: torch.Generator) -> Tensor:
    """Smoothed uniform noise in [-height, height] for each image: `[B, H, W]`."""
    noise = uniform((len(x), 1, *x.shape[2:]), -1, 1, x, rng)
    return height * blurred(noise, sigma, truncate=3)[:, 0]


def pixelate(x: Tensor, severity: int, _rng: torch.Generator) -> Tensor:
    """Scaled down and up again, both with a box. The constant is the ratio of the sides; it is no length."""
    ratio, _, wide = setting(x, severity, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25))
    return shown(pixelated(wide, ratio), x)


def pixelated(x: Tensor, ratio: float) -> Tensor:
    """x scaled to int(ratio * H), int(ratio * W), a pixel at least, and back: block means where they divide H and W."""

    def there_and_back(n: int) -> Tensor:
        size = max(1, int(n * ratio))
        return (box_weights(n, size) @ box_weights(size, n)).to(x)

    return there_and_back(x.shape[2]) @ x @ there_and_back(x.shape[3]).T


def jpeg(x: Tensor, severity: int, _rng: torch.Generator) -> Tensor:
    """Compressed by Pillow's JPEG encoder, on the CPU, and decoded again. The constant is the quality."""
    quality, _, wide = setting(x, severity, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7))
    pixels = (wide.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    again = np.empty_like(pixels)
    for i, image in enumerate(pixels):
        again[i] = _through_jpeg(image, quality)
    return shown(torch.from_numpy(again).permute(0, 3, 1, 2).to(wide) / 255, x)


def _through_jpeg(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], quality: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """8-bit pixels `[H, W, C]`, encoded and decoded."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image, dtype=np.uint8).reshape(pixels.shape)

"""Fifteen common corruptions of images at five severities, made on the fly for images of any size, grey or in colour.

After Hendrycks & Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", 2019.
Each is a function `(x [B, C, H, W] in [0, 1], severity in 1 ... 5, rng on x's device) -> [B, C, H, W]` in [0, 1] of x's
dtype, C 1 or 3, drawing everything random from rng.

**These are not the released files.** The constants of every severity are the published ones: those of CIFAR-10-C for a
shorter side below about 85 pixels, those of ImageNet-C from there. Constants that are lengths (blur radii, flake and
displacement sizes) are multiplied by side / 32 (at least 1) or by side / 224, so they are the published ones exactly at
32 and at 224 pixels; a snow flake is never smaller than published. Noise, brightness, contrast and fog are then the
same in distribution as the published ones, pixelation and JPEG the same up to an 8-bit rounding and the version of the
encoder. The others differ: ice is drawn instead of photographed (frost), pixels swap in another order (glass blur),
enlargements are by fractions of a pixel (zoom blur), smears and interpolations are computed in floating point (motion
blur, snow, elastic), and nothing but JPEG is rounded to 8 bits.

A higher severity changes pixels more in the mean, except where the published constants do not: at 32 pixels glass blur
(2, 3 and 5), frost (4) and elastic transform, which bends more and moves less; motion blur is the same at 3 and 4. In
between 32 and 224 pixels scaled kernels of a few pixels can be out of order, too.

Accuracies are comparable with one another, not with published tables of CIFAR-10-C or ImageNet-C.
"""

from sparring.domains.image.corruptions_blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from sparring.domains.image.corruptions_digital import contrast, elastic_transform, jpeg, pixelate
from sparring.domains.image.corruptions_noise import gaussian_noise, impulse_noise, shot_noise
from sparring.domains.image.corruptions_setting import Corruption
from sparring.domains.image.corruptions_weather import brightness, fog, frost, snow

CORRUPTIONS: tuple[tuple[str, Corruption], ...] = (
    ("gaussian_noise", gaussian_noise),
    ("shot_noise", shot_noise),
    ("impulse_noise", impulse_noise),
    ("defocus_blur", defocus_blur),
    ("glass_blur", glass_blur),
    ("motion_blur", motion_blur),
    ("zoom_blur", zoom_blur),
    ("snow", snow),
    ("frost", frost),
    ("fog", fog),
    ("brightness", brightness),
    ("contrast", contrast),
    ("elastic_transform", elastic_transform),
    ("pixelate", pixelate),
    ("jpeg", jpeg),
)
"""The fifteen, by name, in the order of the paper."""

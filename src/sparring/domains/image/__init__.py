"""Images: labelled data from published formats, augmentation, and classifiers that take pixels in [0, 1].

Nothing is downloaded, and importing this package loads torch and numpy only.
"""

from sparring.domains.image.augment import pad_crop_flip
from sparring.domains.image.data import DATA_ROOT, NAMES, load
from sparring.domains.image.folder import ImageFolder
from sparring.domains.image.models import (
    SPECS,
    ModelError,
    Normalize,
    build,
    check_output,
    from_factory,
    preact_resnet18,
    small_conv,
    small_strided,
    wide_resnet,
)
from sparring.domains.image.source import DataError, Dataset, Images, Source, Splits, assemble, check, fingerprint

__all__ = [
    "DATA_ROOT",
    "NAMES",
    "SPECS",
    "DataError",
    "Dataset",
    "ImageFolder",
    "Images",
    "ModelError",
    "Normalize",
    "Source",
    "Splits",
    "assemble",
    "build",
    "check",
    "check_output",
    "fingerprint",
    "from_factory",
    "load",
    "pad_crop_flip",
    "preact_resnet18",
    "small_conv",
    "small_strided",
    "wide_resnet",
]

"""Data sets from the Hugging Face hub, through its own `datasets` package (the extra `online`)."""

from collections.abc import Iterator
from typing import Any

from sparring.domains.image.decode import Encoded, Shape, cell, decoded_rows
from sparring.domains.image.parquet import IMAGE_COLUMNS, LABEL_COLUMNS, ROWS
from sparring.domains.image.source import DataError, Images, Splits
from sparring.domains.image.split import divided

TEST_SPLITS = ("test", "validation", "valid", "val")


def read_hub(name: str, size: int | None = None) -> Splits:
    """The train split and the test (else validation) split of an image classification set on the hub.

    The image is the first column of the feature type Image, preferably named `img` or `image`; the label is `label`,
    `fine_label` or `labels`, else the first ClassLabel. Pixels are kept in memory as uint8.

    Args:
        name: of the set, such as `zalando-datasets/fashion_mnist`, with `:CONFIG` after it where the set has several;
            or a local folder that `datasets.load_dataset` understands.
        size: height and width of the images; by default those of the first train image.

    Raises:
        DataError: when `datasets` is not installed or cannot load the set, or the set has no image or label column.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"hf:{name} needs the datasets package. pip install 'sparring[online]'") from error
    path, _, config = name.partition(":")
    try:
        loaded = datasets.load_dataset(path, config or None)
    except Exception as error:  # network, hub, format: it has no common base class
        raise DataError(f"hf:{name} cannot be loaded: {type(error).__name__}: {error}") from error
    if "train" not in loaded:
        raise DataError(f"hf:{name} must have a split named train. Got {', '.join(map(str, loaded))}.")
    image, label = _columns(name, loaded["train"].features)
    classes = getattr(loaded["train"].features[label], "names", None)
    train = _images(loaded["train"], image, label, f"{name} train", size, None)
    test_split = next((split for split in TEST_SPLITS if split in loaded), None)
    if test_split is None:
        return Splits(*divided(train), tuple(classes) if classes else None)
    _, C, H, W = train.x.shape
    test = _images(loaded[test_split], image, label, f"{name} {test_split}", size, (C, H, W))
    return Splits(train, test, tuple(classes) if classes else None)


def _columns(name: str, features: Any) -> tuple[str, str]:
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    images = [column for column in (*IMAGE_COLUMNS, *kinds) if kinds.get(column) == "Image"]
    labels = [column for column in LABEL_COLUMNS if column in kinds]
    labels += [column for column, kind in kinds.items() if kind == "ClassLabel"]
    if not images or not labels:
        listed = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
        raise DataError(f"hf:{name} must have an Image column and a label column. Got {listed}.")
    return images[0], labels[0]


def _images(split: Any, image: str, label: str, name: str, size: int | None, shape: Shape | None) -> Images:
    import datasets

    raw = split.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))

    def parts() -> Iterator[tuple[list[Encoded], list[int]]]:
        for batch in raw.iter(batch_size=ROWS):
            if not all(isinstance(y, int) for y in batch[label]):
                raise DataError(f"{name}: the column {label!r} must hold an integer in every row.")
            yield [cell(value, name, files=True) for value in batch[image]], batch[label]

    return decoded_rows(parts(), len(raw), name, size, shape)

"""Labelled texts from the Hugging Face hub, through its own `datasets` package (the extra `online`)."""

from dataclasses import replace
from typing import Any

from sparring.domains.text.files import DataError
from sparring.domains.text.labelled import Rows, TextData, assembled, labelled
from sparring.domains.text.records import LABEL_COLUMNS, Records, column

VALIDATION = ("validation", "valid", "val", "dev")


def read_hub(name: str, text: str | None = None, label: str | None = None) -> TextData:
    """The splits of a text classification set on the hub.

    Args:
        name: of the set, such as `stanfordnlp/imdb`, with `:CONFIG` after it where the set has several; or a local
            folder that `datasets.load_dataset` understands.
        text, label: columns; by default the likeliest.

    Raises:
        DataError: where `datasets` is not installed or cannot load the set, or it has no split named train or no such
            columns.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"hf:{name} needs the datasets package: pip install 'sparring[online]'.") from error
    path, _, config = name.partition(":")
    try:
        loaded = datasets.load_dataset(path, config or None)
    except Exception as error:  # network, hub, format: it has no common base class
        raise DataError(f"hf:{name} cannot be loaded: {type(error).__name__}: {error}") from error
    if "train" not in loaded:
        raise DataError(f"hf:{name} must have a split named train. Got {', '.join(map(str, loaded))}.")
    splits = {part: _rows(loaded[part], f"{name} {part}", text, label) for part in loaded}
    validation = next((splits[part] for part in VALIDATION if part in splits), None)
    test = splits.get("test")
    if test is not None and {kind for _, _, kind in test.found} == {"-1"}:
        test = None  # what the hub writes where labels are kept secret: nothing can be measured on it
    return assembled(name, splits["train"], validation, test)


def _rows(split: Any, where: str, text: str | None, label: str | None) -> Rows:
    rows = [(number, dict(row)) for number, row in enumerate(split, 1)]
    records = Records(where, tuple(map(str, split.column_names)), rows, [])
    kind = split.features[column(records, LABEL_COLUMNS, label, "label")]
    return replace(labelled(records, text, label), classes=tuple(getattr(kind, "names", None) or ()))

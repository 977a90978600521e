"""Labelled texts by name or path. Nothing is downloaded, but for `hf:` names."""

import difflib
from pathlib import Path

from sparring.domains.text.files import DATA_ROOT, DataError
from sparring.domains.text.labelled import Encoded, TextData, Texts, assembled, labelled
from sparring.domains.text.online import VALIDATION, read_hub
from sparring.domains.text.published import NAMES, published
from sparring.domains.text.records import ENDINGS, Aside, read

__all__ = ["DATA_ROOT", "NAMES", "Aside", "DataError", "Encoded", "TextData", "Texts", "load"]


def load(
    name: str | Path, root: str | Path | None = None, *, text: str | None = None, label: str | None = None
) -> TextData:
    """A set of labelled texts.

    Args:
        name: one of `NAMES`; or a path of TSV, CSV, JSONL, JSON or parquet, of which a fifth of every class is the
            test; or a folder with such files named train, and test or validation (dev, val, valid); or `hf:NAME`, a set
            on the hub.
        root: folder that named sets are looked for in; by default the environment variable SPARRING_DATA.
        text, label: columns of a path or a set on the hub; by default the likeliest by name.

    Raises:
        DataError: where there is no such set, a column or a label is missing, or a test label was never trained on.
            Single rows that cannot be read are no error: they are in `aside`.
    """
    given = str(name)
    if given in NAMES:
        return published(given, root)
    if given.startswith("hf:"):
        return read_hub(given.removeprefix("hf:"), text, label)
    path = Path(name)
    if path.is_file():
        return assembled(path.stem, labelled(read(path, label=label), text, label))
    if path.is_dir():
        files = [_named(path, stems) for stems in (("train",), VALIDATION, ("test",))]
        train, validation, test = (
            None if file is None else labelled(read(file, label=label), text, label) for file in files
        )
        if train is None:
            held = ", ".join(sorted(child.name for child in path.iterdir())[:5]) or "nothing"
            raise DataError(f"{path} must hold a file named train ({', '.join(ENDINGS)}). It holds {held}.")
        return assembled(path.name, train, validation, test)
    near = difflib.get_close_matches(given, NAMES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise DataError(f"The data must be one of {', '.join(NAMES)}, hf:NAME, or a path. Got {given!r} instead.{hint}")


def _named(folder: Path, stems: tuple[str, ...]) -> Path | None:
    paths = (folder / f"{stem}{ending}" for stem in stems for ending in ENDINGS)
    return next((path for path in paths if path.is_file()), None)

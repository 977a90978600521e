"""Where text data is looked for, and how a file that is no text is told. Nothing is downloaded."""

import os
from pathlib import Path

DATA_ROOT = "SPARRING_DATA"
"""Environment variable with the folder that holds the data sets, used where no root is given."""


class DataError(ValueError):
    """Data that cannot be used as it is: missing, damaged, or of another format."""


def folder_of(name: str, folder: str, root: str | Path | None) -> Path:
    """The folder of a set below the root, or the root itself where it has the folder's name.

    Raises:
        DataError: where it is not found; the message says where it was looked for.
    """
    given = root if root is not None else os.environ.get(DATA_ROOT) or None
    places = []
    if given is not None:
        places = [Path(given)] if Path(given).resolve().name == folder else []
        places.append(Path(given) / folder)
    for place in places:
        if place.is_dir():
            return place
    looked = "\n  ".join(map(str, places)) or f"nowhere: no root was given and {DATA_ROOT} is not set"
    raise DataError(
        f"{name} was not found. Looked in\n  {looked}\nPut its files in <root>/{folder} and pass the root or set "
        f"{DATA_ROOT}=<root>. Nothing is downloaded."
    )


def lines_of(path: Path) -> list[bytes]:
    """The lines of a file as bytes, without their ends and without a byte order mark.

    Raises:
        DataError: where it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n") if data else []


def words_of(path: Path) -> list[list[str]]:
    """The lines of a file of UTF-8, each split at white space; empty ones are empty.

    Raises:
        DataError: where it cannot be read, or a line is not UTF-8, which is named.
    """
    found = []
    for number, line in enumerate(lines_of(path), 1):
        try:
            found.append(line.decode().split())
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number}: must be UTF-8: {error.reason}.") from error
    return found

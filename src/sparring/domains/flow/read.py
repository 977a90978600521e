"""Files of flows as tables in memory, by name or path. Nothing is downloaded.

Every row must be well formed; `stream` is for files with rows that are not.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from sparring.domains.flow.blocks import magic
from sparring.domains.flow.chunks import joined
from sparring.domains.flow.layout import DataError
from sparring.domains.flow.published import LAYOUTS
from sparring.domains.flow.schema import Schema
from sparring.domains.flow.stream import stream
from sparring.domains.flow.table import Table

DATA_ROOT = "SPARRING_DATA"
"""Environment variable with the folder that holds the data sets, used where no root is given."""

NAMES = tuple(LAYOUTS)
"""The names that `read` knows; a path is the other way to say what is meant."""

FOLDERS = {
    "nsl-kdd": ("nsl_kdd", "nsl-kdd", "NSL-KDD", "NSL_KDD"),
    "unsw-nb15": ("unsw_nb15", "unsw-nb15", "UNSW-NB15", "UNSW_NB15"),
    "cic-ddos2019": ("cic_ddos2019", "cic-ddos2019", "CIC-DDoS2019", "CICDDoS2019", "CIC_DDoS2019"),
}
"""Where a published set is looked for below the root, or what the root itself is called."""

_ENDINGS = (*(f".{kind}{packed}" for kind in ("txt", "csv", "arff") for packed in ("", ".gz")), ".parquet")
_NSL_KDD = (("KDDTrain+", "KDDTrain+_20Percent"), ("KDDTest+",))
_UNSW_NB15 = ("UNSW_NB15_training-set", "UNSW_NB15_testing-set")


def read(path_or_name: str | Path, root: str | Path | None = None, schema: Schema | None = None) -> tuple[Table, ...]:
    """The tables of a published set, or of a file.

    Args:
        path_or_name: `nsl-kdd`, which gives the training table and the test table (the whole training file where it is
            there, else the fifth of it); `unsw-nb15`, which gives the larger one first, whatever it is called, or the
            only one; `cic-ddos2019`, one table for each file, in the order of their paths; else the path of a CSV,
            ARFF or parquet file, or of a folder of one of the sets.
        root: folder that the sets are looked for in; by default the environment variable SPARRING_DATA.
        schema: what the rows of a file are; by default, the published schema whose columns it has.

    Raises:
        DataError: where there are no such files, or a row is malformed; the message names file, line, column, value
            and constraint.
    """
    name = str(path_or_name)
    if name in NAMES and schema is None:
        return _sorted(name, [_table(file, LAYOUTS[name].schema) for file in find(name, root)])
    path = Path(path_or_name)
    if path.is_dir():
        for known in NAMES:
            files = _files(known, path)
            if files:
                return _sorted(known, [_table(file, schema or LAYOUTS[known].schema) for file in files])
        raise DataError(f"{path} must hold the files of {', '.join(NAMES)}. Found {_held(path)}.")
    if not path.is_file():
        raise DataError(
            f"The flows must be one of {', '.join(NAMES)}, or the path of a file or a folder. Got {name!r}."
        )
    return (_table(path, schema or schema_of(path)),)


def find(name: str, root: str | Path | None = None) -> tuple[Path, ...]:
    """The files of a published set, to be read or streamed.

    Raises:
        DataError: where they are not found; the message says where they were looked for.
    """
    if name not in NAMES:
        raise DataError(f"The 'name' parameter must be one of {', '.join(NAMES)}. Got {name!r} instead.")
    given = root if root is not None else os.environ.get(DATA_ROOT) or None
    places = [] if given is None else [Path(given) / folder for folder in FOLDERS[name]]
    if given is not None and Path(given).resolve().name in FOLDERS[name]:
        places.insert(0, Path(given))
    for place in places:
        files = _files(name, place) if place.is_dir() else ()
        if files:
            return files
    looked = "\n  ".join(map(str, places)) or f"nowhere: no root was given and {DATA_ROOT} is not set"
    raise DataError(
        f"{name} was not found. Looked in\n  {looked}\nPut {_wanted(name)} in <root>/{FOLDERS[name][0]} and pass the "
        f"root or set {DATA_ROOT}=<root>. Nothing is downloaded."
    )


def schema_of(path: Path) -> Schema:
    """The published schema whose columns a file has.

    Raises:
        DataError: where it is none; then a schema of your own has to be given.
    """
    for layout in LAYOUTS.values():
        try:
            stream(path, layout.schema)
        except DataError:
            continue
        return layout.schema
    kind = "parquet" if magic(path) == b"PAR1" else "CSV or ARFF"
    raise DataError(
        f"{path} must have the columns of one of {', '.join(NAMES)}, or a schema of its own must be given, as TOML "
        f"(--schema FILE). It was read as {kind}."
    )


def _table(path: Path, schema: Schema) -> Table:
    parts = []
    for part, refused in stream(path, schema, 200_000):
        if refused:
            first = min(refused, key=lambda row: row.line)
            more = f" {len(refused) - 1} more rows near it are malformed." if len(refused) > 1 else ""
            raise DataError(f"{path}, line {first.line}: {first.reason}{more} `stream` reads past such rows.")
        parts.append(part)
    table = joined(schema, [part for part in parts if len(part)])
    if not len(table):
        raise DataError(f"{path} must have at least one row. Got none.")
    return table


def _sorted(name: str, tables: list[Table]) -> tuple[Table, ...]:
    """In some releases the names of the two files of UNSW-NB15 are exchanged; their sizes are not."""
    return tuple(sorted(tables, key=len, reverse=True)) if name == "unsw-nb15" else tuple(tables)


def _files(name: str, folder: Path) -> tuple[Path, ...]:
    """The files of a set in a folder; none where one that is needed is not there."""
    if name == "nsl-kdd":
        pair = [_first(folder, stems) for stems in _NSL_KDD]
        return tuple(file for file in pair if file) if all(pair) else ()
    if name == "unsw-nb15":
        return tuple(file for stem in _UNSW_NB15 if (file := _first(folder, (stem,))))
    held = sorted(file for file in folder.rglob("*") if file.is_file() and file.name.endswith(_ENDINGS))
    return tuple(file for file in held if _is(name, file))


def _is(name: str, file: Path) -> bool:
    try:
        stream(file, LAYOUTS[name].schema)
    except DataError:
        return False
    return True


def _first(folder: Path, stems: Iterable[str]) -> Path | None:
    return next((file for stem in stems for end in _ENDINGS if (file := folder / f"{stem}{end}").is_file()), None)


def _wanted(name: str) -> str:
    stems = [pair[0] for pair in _NSL_KDD] if name == "nsl-kdd" else _UNSW_NB15 if name == "unsw-nb15" else ()
    return (
        " and ".join(f"{stem}{_ENDINGS[0] if name == 'nsl-kdd' else '.csv'}[.gz]" for stem in stems) or "its CSV files"
    )


def _held(folder: Path) -> str:
    return ", ".join(sorted(child.name for child in folder.iterdir())[:5]) or "an empty folder"

"""The header of ARFF files (Weka's attribute-relation file format), and their rows' cells.

Dense files only: `@relation`, `@attribute NAME TYPE` with TYPE numeric, real, integer, string or `{word, word}`,
`@data`, then rows of cells divided by commas. Keywords are read in any case; names and words may be in single or
double quotes, in which a backslash escapes; lines that begin with `%` are comments; `?` is a missing value.
Format: https://www.cs.waikato.ac.nz/ml/weka/arff.html
"""

import re
from dataclasses import dataclass
from typing import BinaryIO

from sparring.domains.flow.blocks import LONGEST
from sparring.domains.flow.layout import DataError

_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ATTRIBUTE = re.compile(rf"@attribute\s+({_QUOTED}|[^\s{{}}'\"]\S*)\s*(.*)", re.IGNORECASE)
_CELL = re.compile(rf"\s*({_QUOTED}|[^,'\"]*?)\s*(,|$)")
_ESCAPED = re.compile(r"\\(.)")
_NUMERIC = ("numeric", "real", "integer")


@dataclass(frozen=True)
class Header:
    """What comes before the rows.

    Args:
        names: of the attributes, in order.
        words: the words that are declared for the nominal ones.
        lines: of the header, `@data` included.
    """

    names: tuple[str, ...]
    words: dict[str, frozenset[str]]
    lines: int


def header(source: BinaryIO, name: str) -> Header:
    """The header of a file; afterwards the source is at the line after `@data`.

    Raises:
        DataError: where a line is none of a header, naming the file and the line.
    """
    names: list[str] = []
    words: dict[str, frozenset[str]] = {}
    lines = 0
    while line := source.readline(LONGEST):
        lines += 1
        text = line.decode(errors="replace").strip()
        word = text.split(None, 1)[0].lower() if text else ""
        if not text or word.startswith("%") or word == "@relation":
            continue
        if word == "@data":
            if not names:
                break
            return Header(tuple(names), words, lines)
        found = _ATTRIBUTE.fullmatch(text)
        if not found:
            raise DataError(f"{name}, line {lines}: must be @relation, @attribute or @data. Got {text[:80]!r} instead.")
        attribute, kind = _bare(found[1]), found[2].strip()
        if kind.startswith("{") and kind.endswith("}"):
            words[attribute] = frozenset(_declared(kind[1:-1], name, lines))
        elif kind.lower() not in (*_NUMERIC, "string"):
            raise DataError(
                f"{name}, line {lines}: the type of {attribute!r} must be numeric, real, integer, string or "
                f"{{words}}. Got {kind!r} instead."
            )
        names.append(attribute)
    raise DataError(f"{name} must have @attribute lines and then @data. Got {len(names)} attributes and no @data.")


def split(line: str) -> list[str]:
    """The cells of a row.

    Raises:
        ValueError: where the row is sparse, or quotes are not closed.
    """
    if line.lstrip().startswith("{"):
        raise ValueError("it is sparse ({index value, ...}), which is not read here")
    if "'" not in line and '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    cells, at = [], 0
    while True:
        found = _CELL.match(line, at)
        if not found:
            raise ValueError(f"the quotes at character {at + 1} are not closed, or something follows them")
        cells.append(_bare(found[1]))
        if not found[2]:
            return cells
        at = found.end()


def _bare(word: str) -> str:
    """Without its quotes."""
    return _ESCAPED.sub(r"\1", word[1:-1]) if word[:1] in ("'", '"') and len(word) > 1 else word


def _declared(inside: str, name: str, line: int) -> list[str]:
    try:
        return split(inside)
    except ValueError as error:
        raise DataError(f"{name}, line {line}: the words cannot be read: {error}.") from error

"""How the columns of a schema lie in files: under which names or at which places, and what a reader puts right."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sparring.domains.flow.schema import Schema


class DataError(ValueError):
    """Files of flows that cannot be used as they are: missing, damaged, or of another format."""


def plain(name: str) -> str:
    """A column's name without what files write differently: case, spaces and punctuation (` Flow Bytes/s`)."""
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")


@dataclass(frozen=True)
class Layout:
    """What a reader must know about the files of a schema.

    Args:
        schema: what is read.
        columns: the names of all columns, in order, of files that have no header; empty where files always have one.
        aliases: other names that files give to columns, in the form of `plain`, to ours.
        undefined: columns that are quotients, to the column that they divide by. Where that one is 0, Infinity and NaN
            in the quotient are read as 0; everywhere else they are errors.
        spellings: other spellings of labels, to ours. The empty one is a label only where it is listed here.
    """

    schema: Schema
    columns: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    undefined: Mapping[str, str] = field(default_factory=dict)
    spellings: Mapping[str, str] = field(default_factory=dict)

    def places(self, header: Sequence[str]) -> dict[str, int]:
        """Which cell of a row holds which field, and the label where there is one; fields not found are left out.

        Raises:
            DataError: when two columns could be the same field.
        """
        spelled = [name.strip() for name in header]
        plainly = [self.aliases.get(plain(name), plain(name)) for name in spelled]
        found = {}
        for name in (*self.schema.names, *filter(None, [self.schema.label])):
            hits = [k for k, each in enumerate(spelled) if each == name]
            hits = hits or [k for k, each in enumerate(plainly) if each in (name, plain(name))]
            if len(hits) > 1:
                both = " and ".join(repr(spelled[k]) for k in hits)
                raise DataError(f"The columns of {self.schema.name!r} must be told apart. Both {both} may be {name!r}.")
            if hits:
                found[name] = hits[0]
        return found

    def missing(self, places: Mapping[str, int]) -> list[str]:
        """The fields that have no place."""
        return [name for name in self.schema.names if name not in places]

    def by_position(self, width: int) -> dict[str, int] | None:
        """The places in a file without header whose rows have this many cells; None where that cannot be."""
        if not len(self.schema.fields) <= width <= len(self.columns):
            return None
        return self.places(self.columns[:width])

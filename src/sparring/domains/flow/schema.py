"""What a table of flows consists of, declared as data: columns, what an attacker may change, what holds in every row.

A relation is a line of text, so that it can be written in a short file, read by a person, and understood twice: by the
attack, which repairs rows until it holds, and by the check, which shares no code with the attack.

    relation    =  [ condition { "and" condition } "=>" ] condition
    condition   =  sum ( "<=" | ">=" | "==" | "!=" | "<" | ">" ) sum [ "within" number ]
                |  field "in" "{" word { "," word } "}"
    sum         =  product { ( "+" | "-" ) product }
    product     =  factor { ( "*" | "/" ) factor }
    factor      =  number | field | word | "(" sum ")" | ( "max" | "min" ) "(" sum "," sum ")"
    word        =  a category in single quotes, as in protocol_type == 'udp'

`within` loosens == and is |left - right| <= number. A division by zero makes a condition with it true.
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

Kind = Literal["real", "integer", "rate", "flag", "category"]
Change = Literal["fixed", "up", "down", "free"]

KINDS: tuple[Kind, ...] = ("real", "integer", "rate", "flag", "category")
CHANGES: tuple[Change, ...] = ("fixed", "up", "down", "free")


@dataclass(frozen=True)
class Field:
    """One column.

    Args:
        name: as in the file.
        kind: real numbers; integers; rates, which are multiples of `step`; flags 0 and 1; categories, which are words.
        change: what the sender of a malicious flow may do to it: nothing, raise it, lower it, or either. Categories and
            flags are fixed.
        low, high: the least and the largest value that can occur, in the column's own unit.
        step: of a rate, as 0.01; 0 for the others.
        log: whether log(1 + v) is what is scaled, for columns of bytes whose largest value would else set the unit.
        unit: for people: bytes, seconds, packets.
    """

    name: str
    kind: Kind
    change: Change = "fixed"
    low: float = 0.0
    high: float = inf
    step: float = 0.0
    log: bool = False
    unit: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"The 'kind' of {self.name!r} must be one of {', '.join(KINDS)}. Got {self.kind!r} instead."
            )
        if self.change not in CHANGES:
            raise ValueError(
                f"The 'change' of {self.name!r} must be one of {', '.join(CHANGES)}. Got {self.change!r} instead."
            )
        if self.kind in ("category", "flag") and self.change != "fixed":
            raise ValueError(f"The 'change' of a {self.kind} must be fixed. Got {self.change!r} for {self.name!r}.")
        if not self.low <= self.high:
            raise ValueError(f"'low' must be <= 'high' for {self.name!r}. Got {self.low!r} and {self.high!r}.")
        if (self.kind == "rate") != (self.step > 0):
            raise ValueError(f"A rate, and only a rate, has a 'step' above 0. Got {self.step!r} for {self.name!r}.")
        if self.log and self.low < 0:
            raise ValueError(f"'log' needs 'low' >= 0. Got {self.low!r} for {self.name!r}.")

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.kind != "category"


@dataclass(frozen=True)
class Schema:
    """The columns of a table that a model reads, in their order, and the relations that every feasible row satisfies.

    Args:
        name: of the kind of table.
        fields: the columns that are features; label columns are the reader's business.
        relations: lines of the grammar above.
        label: the column that says what a row is; empty where the table has none.
        benign: the values of the label that mean no attack.
    """

    name: str
    fields: tuple[Field, ...]
    relations: tuple[str, ...] = ()
    label: str = ""
    benign: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"The fields of {self.name!r} must have different names. Got {', '.join(twice)} twice.")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the fields, in order."""
        return tuple(field.name for field in self.fields)

    def field(self, name: str) -> Field:
        """The field of this name. Raises ValueError where there is none."""
        for each in self.fields:
            if each.name == name:
                return each
        raise ValueError(f"The field must be one of {', '.join(self.names)}. Got {name!r} instead.")

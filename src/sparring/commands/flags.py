"""Flags made from dataclasses, and what several commands do with them."""

import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from sparring.engine.rank import first

RUNS = Path("runs")
"""Where new run folders go."""

T = TypeVar("T")


def number(text: str) -> float:
    """A number as a person writes it: `0.03`, `8/255`. Raises ValueError for anything else."""
    try:
        return float(Fraction(text)) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"must be a number such as 0.03 or 8/255. Got {text!r} instead.") from error


def parse(flags: type[T], arguments: Sequence[str], *, prog: str, description: str, default: Any = None) -> T:
    """The flags of a command line; exits with 2 and a message that names the flag where one is wrong."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def fractions(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[float] | None:
        if info.type is not float:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="NUMBER",
            instance_from_str=lambda words: number(words[0]),
            is_instance=lambda value: isinstance(value, int | float),
            str_from_instance=lambda value: [f"{value:g}"],
        )

    keywords = {} if default is None else {"default": default}
    with registry:
        chosen: T = tyro.cli(flags, args=list(arguments), prog=prog, description=description, **keywords)
    return chosen


def new_folder(stem: str) -> Path:
    """A folder under `runs/` that does not exist yet: `stem`, `stem-2`, ..."""
    folder, count = RUNS / stem, 1
    while folder.exists():
        count += 1
        folder = RUNS / f"{stem}-{count}"
    return folder


def say(text: str) -> None:
    """A line for the person watching, on stderr: stdout is for results. Of several processes the first one speaks."""
    if not first():
        return
    print(text, file=sys.stderr, flush=True)

"""What the tests of the report share."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sparring.report import canvas, model_plots, plots, read

from .factory import Record
from .richer import write


class Blank:
    """A canvas that draws nothing: everything about a plot runs but the drawing, which takes nearly all the time."""

    def __init__(self, figure: Any) -> None:
        self.figure = figure

    def print_svg(self, buffer: Any, metadata: Any) -> None:
        buffer.write('<svg viewBox="0 0 1 1"></svg>')


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots stay empty."""
    monkeypatch.setattr(canvas, "FigureCanvasSVG", Blank)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plot is even begun, for tests of words and numbers."""
    for module in (plots, model_plots):
        monkeypatch.setattr(module, "drawn", lambda *_: "")


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., list[read.Run]]:
    """`loaded(record, record, ...)`: runs with these records, and everything beside them, on the same examples."""

    numbers = count()

    def load(*contents: Record) -> list[read.Run]:
        return read.load([write(tmp_path / f"run{next(numbers)}", content) for content in contents])

    return load

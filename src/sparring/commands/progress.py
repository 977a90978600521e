"""A bar on stderr for what takes longer than a moment."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from sparring.evaluation.evaluate import Advance


@contextmanager
def progress(title: str, *, silent: bool = False, after: float = 0.0) -> Iterator[Advance]:
    """A bar on stderr, where it is a terminal, once so many seconds have gone by."""
    console, began = Console(stderr=True), time.monotonic()
    bar = Progress(
        TextColumn(title),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        disable=silent or not console.is_terminal,
        transient=True,
    )
    task = bar.add_task("", total=None)

    def advance(stage: str, done: float, total: float) -> None:
        bar.update(task, completed=done, total=total, description=stage)
        if time.monotonic() - began >= after:
            bar.start()

    try:
        advance("", 0.0, 1.0)
        yield advance
    finally:
        bar.stop()

"""A progress bar that only shows itself to people who have begun to wait."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def progress(text: str, total: int, patience: float = 2.0) -> Iterator[Callable[[int], None]]:
    """`advance(n)`, to be called after each n items. Draws on stderr, if that is a terminal, after `patience` seconds.

    Args:
        text: what is going on.
        total: items in all.
        patience: seconds before the bar appears.
    """
    began, done = time.monotonic(), 0
    draw: Callable[[int], None] | None = None
    with ExitStack() as stack:

        def advance(n: int) -> None:
            nonlocal done, draw
            done += n
            if draw is None and sys.stderr.isatty() and time.monotonic() - began > patience:
                draw = stack.enter_context(_bar(text, total))
            if draw is not None:
                draw(done)

        yield advance


@contextmanager
def _bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.update(task, completed=done)

"""Progress on stderr: a live bar on a terminal, a line an epoch elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor


class Display:
    """Shows a run: steps done, rate, time left, loss, and the last clean and robust validation accuracy.

    Args:
        total: steps of the whole run.
        done: steps done before (a resumed run).
        epochs: of the whole run.
        silent: shows nothing: of several processes one is enough.
    """

    def __init__(self, total: int, done: int, epochs: int, *, silent: bool = False) -> None:
        self._epochs, self._silent = epochs, silent
        self._live = sys.stderr.isatty() and not silent
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=not self._live,
        )
        self._task = self._bar.add_task("training", total=total, completed=done, rate="", note="")
        self._accuracy = ""
        self._done, self._steps = done, 0
        self._start = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, loss: Tensor) -> None:
        """One step done; the loss is read only when it is about to be shown."""
        self._steps += 1
        now = time.monotonic()
        if not self._live or now - self._shown < 0.25:
            return
        self._shown = now
        rate = self._steps / (now - self._start)
        self._bar.update(
            self._task,
            completed=self._done + self._steps,
            rate=f"{rate:.1f} steps/s",
            note=f"loss {loss.item():.3f}{self._accuracy}",
        )

    def say(self, text: str) -> None:
        """What is done between the last epoch and the end."""
        self._bar.update(self._task, completed=self._done + self._steps, description=text)
        if not self._live and not self._silent:
            print(text, file=sys.stderr, flush=True)

    def epoch(self, entry: dict[str, Any]) -> None:
        """An epoch done, with its history entry."""
        clean, robust = entry["validation"]["clean"], entry["validation"]["robust"]
        self._accuracy = f"  clean {clean:.1%}  robust {robust:.1%}"
        if not self._live and not self._silent:
            print(
                f"epoch {entry['epoch']}/{self._epochs}  loss {entry['loss']:.4f}{self._accuracy} "
                f"of {entry['validation']['n']} held out  {entry['seconds']:.1f} s",
                file=sys.stderr,
                flush=True,
            )

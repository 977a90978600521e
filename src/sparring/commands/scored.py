"""What `sparring score` writes: verdicts and refused rows, each file whole or absent, and a bar for who waits."""

import csv
import io
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from sparring.domains.flow.rows import Refused
from sparring.domains.flow.scoring import TOP, Answer, Scorer
from sparring.engine.checkpoint import CheckpointError

_TOP = (f"{what}_{k + 1}" for k in range(TOP) for what in ("feature", "contribution"))

HEADER = ("line", "verdict", "score", "layer", *_TOP)
"""Of the verdicts: line,verdict,score,layer,feature_1,contribution_1,feature_2,..."""

REFUSED = ("line", "reason", "text")
"""Of the refused rows."""

PATIENCE = 2.0
"""Seconds before the bar appears."""


class Outputs:
    """The two files. Both are written beside their targets and renamed over them at the end, so that a kill or a full
    disk leaves what was there before; to standard output go whole lines only, a chunk at a time.

    Args:
        out: where verdicts go; None is standard output.
        refused: where malformed rows go.

    Raises:
        CheckpointError: where the disk refuses.
    """

    def __init__(self, out: Path | None, refused: Path) -> None:
        self.rows, self.refused, self.first_refused = 0, 0, ""
        self._out, self._aside = _File(out), _File(refused)

    def __enter__(self) -> Self:
        self._out.begin(_line(HEADER))
        try:
            self._aside.begin(_line(REFUSED))
        except BaseException:
            self._out.end(keep=False)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._out.end(keep=kind is None)
        except BaseException:
            kind = kind or BaseException
            raise
        finally:
            self._aside.end(keep=kind is None)

    def discard(self) -> None:
        """Delete what is not finished."""
        for file in (self._out, self._aside):
            file.discard()

    def add(self, lines: NDArray[np.int64], answer: Answer, scorer: Scorer) -> None:
        """Verdicts on the flows of these lines."""
        self.rows += len(lines)
        self._out.write(text_of(lines, answer, scorer).encode())

    def refuse(self, rows: list[Refused]) -> None:
        """Rows that were malformed."""
        if not rows:
            return
        self.first_refused = self.first_refused or f"line {rows[0].line}: {rows[0].reason}"
        self.refused += len(rows)
        self._aside.write(b"".join(_line((row.line, row.reason, row.text)) for row in rows))


def text_of(lines: NDArray[np.int64], answer: Answer, scorer: Scorer) -> str:
    """The lines of CSV about these flows."""
    names = np.array([_cell(name) for name in scorer.columns], object)
    k = answer.columns.shape[1]
    # a verdict and its layer stand around the score: one template for each pair of them, filled a row at a time
    tail = ",%s,%+.3g" * k + ",," * (TOP - k) + "\n"
    templates = [f"%d,benign,%.6g,{scorer.layers[0]}{tail}"]
    templates += [f"%d,attack,%.6g,{name}{tail}" for name in scorer.layers]
    which = (answer.layer + 1) * answer.attack
    cells = [lines.tolist(), answer.score.tolist()]
    for j in range(k):
        cells += [names[answer.columns[:, j].numpy()].tolist(), answer.contributions[:, j].tolist()]
    return "".join([templates[w] % row for w, row in zip(which.tolist(), zip(*cells, strict=True), strict=True)])


@contextmanager
def stopping(outputs: Outputs) -> Iterator[None]:
    """SIGINT and SIGTERM end the command as they always do (130 and 143 in a shell), but leave nothing half written.

    They do not raise: an exception out of a signal handler is lost where Python happens to be inside a callback.
    """

    def stop(number: int, _: object) -> None:
        outputs.discard()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = [(number, signal.signal(number, stop)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


class Waking(io.RawIOBase):
    """Standard input whose reads a signal always ends.

    A signal that comes between Python's last look for one and the system call sets a flag that nobody reads until the
    pipe brings more. So no read waits in the system call: it waits for the pipe or for a signal, whichever comes first.
    """

    def __init__(self, source: int = 0) -> None:
        self._source = source
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while True:
            ready, _, _ = select.select([self._source, self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, 512)  # its handler runs before the next line does
            elif ready:
                return os.readv(self._source, [buffer])

    def close(self) -> None:
        if not self.closed:
            signal.set_wakeup_fd(self._before)
            os.close(self._woken)
            os.close(self._wake)
        super().close()


class Waiting:
    """A bar on stderr, if that is a terminal, for people who have begun to wait.

    Args:
        size: of the file in bytes; 0 where it is not known, and then nothing is said about the time left.
    """

    def __init__(self, size: int) -> None:
        self._size, self._began = size, time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def at(self, rows: int, done: int) -> None:
        """So many flows scored, so many bytes read."""
        seconds = time.monotonic() - self._began
        if self._bar is None and (seconds < PATIENCE or not sys.stderr.isatty()):
            return
        if self._bar is None:
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task("scoring", total=self._size if done else None, rows="")
        self._bar.update(self._task, completed=done, rows=f"{rows:,} flows, {rows / seconds:,.0f} a second")


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    said, rows, left = TextColumn("{task.description}"), TextColumn("{task.fields[rows]}"), TextColumn("left")
    columns = (said, BarColumn(bar_width=24), TaskProgressColumn(), rows, left, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


class _File:
    """One of the two."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._temporary = None if path is None else path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._file: BinaryIO

    def begin(self, header: bytes) -> None:
        if self._path is None or self._temporary is None:
            self._file = sys.stdout.buffer
        else:
            with _refusing(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._temporary.open("wb")
        self.write(header)

    def write(self, content: bytes) -> None:
        if self._path is None:
            self._file.write(content)
            self._file.flush()
            return
        with _refusing(self._path):
            self._file.write(content)

    def end(self, *, keep: bool) -> None:
        if self._path is None or self._temporary is None:
            return
        try:
            with _refusing(self._path):
                try:
                    if keep:
                        self._file.flush()
                        os.fsync(self._file.fileno())
                finally:
                    self._file.close()
                if keep:
                    self._temporary.replace(self._path)
        finally:
            self.discard()

    def discard(self) -> None:
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"Cannot write {path}: {error.strerror}. What was there is intact.") from error


def _line(cells: tuple[object, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode(errors="backslashreplace")


def _cell(name: str) -> str:
    """A name as a cell of CSV, and as part of a template's arguments."""
    return _line((name,)).decode().removesuffix("\n")

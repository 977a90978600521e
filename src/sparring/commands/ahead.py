"""An iterator that is always one element ahead, on a thread of its own."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_AGAIN = 0.1
"""Seconds after which the thread looks whether anybody still waits for its elements."""


@contextmanager
def ahead(source: Iterator[T]) -> Iterator[Iterator[T]]:
    """The elements of `source`, in their order, computed on another thread: one of them waits while one is made.

    What `source` raises is raised to whoever asks for the next element. The context ends when the element that is being
    made then is done: a thread that is inside torch or pyarrow when Python ends would abort the program. So no source
    that may wait for ever, such as a pipe, belongs in here.
    """
    held: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(entry: tuple[T | None, BaseException | None]) -> bool:
        while not stop.is_set():
            try:
                held.put(entry, timeout=_AGAIN)
                return True
            except queue.Full:
                continue
        return False

    def fill() -> None:
        try:
            for element in source:
                if not put((element, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:  # whoever asks has to know, whatever it is
            put((None, error))

    def elements() -> Iterator[T]:
        while True:
            element, error = held.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield element  # type: ignore[misc]

    thread = threading.Thread(target=fill, name="reads ahead", daemon=True)
    thread.start()
    try:
        yield elements()
    finally:
        stop.set()
        thread.join()

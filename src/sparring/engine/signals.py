"""A request to stop: the first SIGINT or SIGTERM asks, a second one acts at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """Whether somebody has asked to stop, by which signal; `asked` is None until then."""

    def __init__(self) -> None:
        self.asked: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear signals inside; whoever handled them before does so again afterwards, and after the first one."""

        def request(number: int, _: object) -> None:
            self.asked = number
            signal.signal(number, previous[number])

        previous: dict[int, Any] = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, request)
        except ValueError:  # not the main thread: whoever owns it owns the signals
            yield
            return
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)

"""How a run ends when the system or the user asks it to: after the present step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tellapart.errors import Interrupted


class StopRequest:
    """Whether the system, or the user by Ctrl-C, has asked the run to end; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def error(self, step: int) -> Interrupted:
        """Return what to raise when the state is safe."""
        number = self.number or signal.SIGTERM
        return Interrupted(f"Stopped by {signal.Signals(number).name} after step {step}: its state is saved.", number)

    def note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take a signal."""
        if number == signal.SIGINT and self:
            raise KeyboardInterrupt
        self.number = number


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into a request to stop after the present step, while this lasts."""
    asked = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may take signals
        yield asked
        return
    before = {number: signal.signal(number, asked.note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Signals that end training after the current step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tellapart.errors import InterruptedTrainingError


class StopRequest:
    """Whether a signal asked training to stop; a second Ctrl-C stops it at once."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None

    def error(self, step: int) -> InterruptedTrainingError:
        """Return the error to raise after the state is saved."""
        number = self.number or signal.SIGTERM
        return InterruptedTrainingError(
            f"Training was stopped by {signal.Signals(number).name} after step {step}, and its state is saved.", number
        )

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Handle a signal."""
        if number == signal.SIGINT and self:
            raise KeyboardInterrupt
        self.number = number


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside the context, turn SIGTERM and SIGINT into a request to stop after the current step."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield request
        return
    handlers = {number: signal.signal(number, request.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

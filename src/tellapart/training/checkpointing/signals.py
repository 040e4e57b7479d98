"""Signals that end training after the current step, and what is done with its state."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import FrameType

from tellapart.errors import InterruptedTrainingError, RecipeError, printable
from tellapart.progress import Progress


class OnInterrupt(StrEnum):
    """What Ctrl-C does: save the state and stop, finish the run with the best weights so far, or ask which of them."""

    STOP = "stop"
    FINISH = "finish"
    ASK = "ask"


def parse_on_interrupt(text: str) -> OnInterrupt:
    """Return the value in a text; raises `RecipeError`."""
    if text not in list(OnInterrupt):
        choices = ", ".join(f"'{value}'" for value in OnInterrupt)
        raise RecipeError(f"on_interrupt: expected one of {choices}, found '{printable(text)}'.")
    return OnInterrupt(text)


class StopRequest:
    """Whether a signal asked training to stop; a second Ctrl-C stops it at once.

    finishes: whether the run is to be finished with the best weights so far.
    """

    def __init__(self, finishes: bool = False) -> None:
        self.number: int | None = None
        self.finishes = finishes

    def __bool__(self) -> bool:
        return self.number is not None

    def error(self, step: int) -> InterruptedTrainingError:
        """Return the error to raise after the state is saved."""
        number = self.number or signal.SIGTERM
        return InterruptedTrainingError(
            f"Training was stopped by {signal.Signals(number).name} after step {step}, and its state is saved.", number
        )

    def decide(self, on_interrupt: OnInterrupt, position: str, progress: Progress) -> None:
        """Withdraw the request if the run is to be finished, or continued; other signals than Ctrl-C always stop it.

        position: in training, for the question.
        """
        if self.number == signal.SIGINT and on_interrupt == OnInterrupt.ASK:
            answer = progress.ask(
                f"Interrupted in {position}. [f]inish now with the best weights so far, [s]top and resume later, or "
                "[c]ontinue? (s) ",
                "s",
            )
            self.number = None if answer in ("c", "f") else self.number
            self.finishes = answer == "f"
        elif self.number == signal.SIGINT and on_interrupt == OnInterrupt.FINISH:
            self.number, self.finishes = None, True

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Handle a signal."""
        if number == signal.SIGINT and self:
            raise KeyboardInterrupt
        self.number = number


@contextmanager
def stop_requests(finishes: bool = False) -> Iterator[StopRequest]:
    """Inside the context, turn SIGTERM and SIGINT into a request to stop after the current step."""
    request = StopRequest(finishes)
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield request
        return
    handlers = {number: signal.signal(number, request.handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

"""Admission control: limits on the images and bytes in progress, checked before a body is read."""

from collections.abc import Iterator
from contextlib import contextmanager

from tellapart.serving.limits import Limits
from tellapart.serving.problem import AT_CAPACITY, ProblemError


class Admission:
    """Counts the images and bytes in progress; needs no lock, as all calls come from the event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.images = 0
        self.buffered_bytes = 0

    @property
    def at_capacity(self) -> bool:
        """Whether no request can be admitted."""
        return self.images >= self.limits.images or self.buffered_bytes >= self.limits.buffered_bytes

    @contextmanager
    def admit(self, size: int) -> Iterator["Ticket"]:
        """Admit a request of `size` bytes; raises `ProblemError` `at_capacity` immediately if there is no room."""
        if self.at_capacity:
            raise at_capacity_problem()
        ticket = Ticket(self)
        ticket.reserve_bytes(size)
        self.images += 1
        try:
            yield ticket
        finally:
            self.images -= ticket.images
            self.buffered_bytes -= ticket.buffered_bytes


class Ticket:
    """The share of the server's capacity that one request holds."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.images = 1
        self.buffered_bytes = 0

    def reserve_bytes(self, count: int) -> None:
        """Hold more bytes; raises `ProblemError` `at_capacity` if there is no room for them."""
        if self.admission.buffered_bytes + count > self.admission.limits.buffered_bytes:
            raise at_capacity_problem()
        self.admission.buffered_bytes += count
        self.buffered_bytes += count

    def set_images(self, count: int) -> None:
        """Hold `count` images, as of a form; raises `ProblemError` `at_capacity` if there is no room beside others."""
        others = self.admission.images - self.images
        if others and others + count > self.admission.limits.images:
            raise at_capacity_problem()
        self.admission.images = others + count
        self.images = count


def at_capacity_problem() -> ProblemError:
    """Return the problem of a request that is not admitted."""
    return ProblemError(AT_CAPACITY, "The server is at capacity; retry later.", retry_after=1)

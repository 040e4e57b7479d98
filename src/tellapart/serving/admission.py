"""Who is let in: bounds on the pictures and bytes in the server at once, checked before a body is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from tellapart.serving.limits import Limits
from tellapart.serving.problem import Problem


class Admission:
    """Counts what is in the server; all calls come from the event loop, so nothing is locked."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.pictures = 0
        self.bytes_held = 0

    @property
    def full(self) -> bool:
        """Whether nobody can be let in."""
        return self.pictures >= self.limits.pictures or self.bytes_held >= self.limits.bytes_held

    @contextmanager
    def let_in(self, size: int) -> Iterator["Place"]:
        """Keep a place for a request of so many bytes; raises `Problem` 503 at once if there is none."""
        if self.full or self.bytes_held + size > self.limits.bytes_held:
            raise busy()
        place = Place(self)
        place.hold(size)
        self.pictures += 1
        try:
            yield place
        finally:
            self.pictures -= place.pictures
            self.bytes_held -= place.held


class Place:
    """The part of the server that a request holds."""

    def __init__(self, admission: Admission) -> None:
        self.admission, self.held, self.pictures = admission, 0, 1

    def hold(self, count: int) -> None:
        """Hold more bytes; raises `Problem` 503 if there is no room for them."""
        if self.admission.bytes_held + count > self.admission.limits.bytes_held:
            raise busy()
        self.admission.bytes_held += count
        self.held += count

    def count(self, pictures: int) -> None:
        """Hold a place for each picture of a form; raises `Problem` 503 if there are not as many, but for one alone."""
        others = self.admission.pictures - self.pictures
        if others and others + pictures > self.admission.limits.pictures:
            raise busy()
        self.admission.pictures += pictures - self.pictures
        self.pictures = pictures


def starting() -> Problem:
    """Return what one is told who comes before the models are loaded."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "The server is starting: come again in a few seconds.", 1)


def busy() -> Problem:
    """Return what one is told who is not let in."""
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "As much is being answered as can be: come again later.", 1)

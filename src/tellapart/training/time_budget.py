"""The time limit of a run: how long training may take, so that calibration, test and report end in time, too."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_AFTER_SHARE = 0.05  # of training, that steps after it take whose amount grows with training (robustness test)


@dataclass
class TimeBudget:
    """A time limit, of which training may use what the steps after it do not need.

    seconds: of the run. started: on the clock of `time.monotonic`. images_after: images to predict after training, and
    seconds_after: duration of the other steps after it. seconds_per_image: of a prediction, as measured in validation.
    """

    seconds: float
    started: float
    images_after: int = 0
    seconds_after: float = 0.0
    seconds_per_image: float = 0.0

    @property
    def left(self) -> float:
        """The seconds until the time limit; negative after it."""
        return self.started + self.seconds - time.monotonic()

    def left_for_training(self, trained: float) -> float:
        """Return the seconds left for training; trained: seconds of training so far."""
        return self.left - self.seconds_after - self.images_after * self.seconds_per_image - _AFTER_SHARE * trained

    def part(self, share: float, images_after: int) -> "TimeBudget":
        """Return a budget for a part of training, such as a fold, that starts now; share: of the seconds left."""
        seconds = max(1.0, share * self.left_for_training(0.0))
        return TimeBudget(
            seconds, time.monotonic(), images_after=images_after, seconds_per_image=self.seconds_per_image
        )

    def resume(self, trained: float) -> None:
        """Count the seconds of training before an interruption."""
        self.started -= trained

    @contextmanager
    def measure_prediction(self, images: int) -> Iterator[None]:
        """Measure the time that the predictions of some images take inside the context."""
        start = time.monotonic()
        yield
        self.seconds_per_image = (time.monotonic() - start) / max(1, images)

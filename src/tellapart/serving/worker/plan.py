"""How a process computes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How a process computes.

    runners: batches computed at once. threads: for each of them. batch: pictures in one, at most. decoders: threads.
    """

    runners: int
    threads: int
    batch: int
    decoders: int

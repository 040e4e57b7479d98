"""How a worker process divides its work."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerPlan:
    """How a worker process divides its work.

    concurrent_batches: batches inferred at once. threads: of the runtime, per batch. max_batch_size: images per batch.
    decoders: threads that decode images.
    """

    concurrent_batches: int
    threads: int
    max_batch_size: int
    decoders: int

"""What the ranks of a distributed run receive from rank 0, as bytes and JSON."""

import json
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest

from folders import QUICK, digit_folder
from tellapart.pipeline.prepare import override_recipe, prepare_run
from tellapart.pipeline.rank_broadcast import broadcast_run, share_prepared
from tellapart.pipeline.train import train
from tellapart.progress import Progress
from tellapart.runs.run import run_identity
from tellapart.training.execution.distributed import Ranks


@dataclass(frozen=True)
class QueuedRanks(Ranks):
    """One of two ranks, which are called one after the other: rank 0 appends to the queue what rank 1 takes."""

    queue: deque = field(default_factory=deque)

    def broadcast(self, make):
        return json.loads(self.broadcast_bytes(lambda: json.dumps(make()).encode()))

    def broadcast_bytes(self, make):
        if self.is_first:
            self.queue.append(make())
            return self.queue[-1]
        return self.queue.popleft()


@pytest.fixture
def ranks():
    queue = deque()
    return [QueuedRanks(rank, 2, None, queue) for rank in (0, 1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return digit_folder(tmp_path_factory.mktemp("sharing") / "digits", 3, 20)


def test_every_rank_has_the_same_prepared_run(folder, tmp_path, ranks):
    def prepare():
        return prepare_run(folder, override_recipe(None, QUICK), tmp_path / "run", False, Progress())

    def refuse():
        raise AssertionError("only rank 0 prepares the run")

    first = share_prepared(ranks[0], folder, prepare)
    other = share_prepared(ranks[1], folder, refuse)
    assert not ranks[0].queue
    names = ("recipe", "identity", "directory", "finished", "title")
    assert [getattr(other, name) for name in names] == [getattr(first, name) for name in names]
    for ours, received in zip(first.splits.as_tuple(), other.splits.as_tuple(), strict=True):
        assert np.array_equal(ours, received)
    assert (other.audit.fingerprint, other.audit.started_at) == (first.audit.fingerprint, first.audit.started_at)
    assert run_identity(other.recipe, other.audit, other.splits) == first.identity
    assert share_prepared(Ranks(), folder, lambda: first) is first


def test_every_rank_returns_the_same_run(folder, tmp_path, ranks):
    run = train(folder, out=tmp_path / "run", autotune=False, **QUICK)
    assert broadcast_run(ranks[0], run, run.directory) is run
    other = broadcast_run(ranks[1], None, run.directory)
    assert not ranks[0].queue
    assert (other.metrics, other.history, other.directory) == (run.metrics, run.history, run.directory)
    assert other.classifier.to_bytes() == run.classifier.to_bytes()
    assert broadcast_run(Ranks(), run, run.directory) is run

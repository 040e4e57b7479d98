"""The schedule of checkpoints, and the checkpoint that a run resumes from."""

import time
from functools import partial
from pathlib import Path

import safetensors.torch

from tellapart.errors import CheckpointError, printable
from tellapart.io.run_directory import RunDirectory
from tellapart.progress import Event, Progress
from tellapart.recipe.sections import CheckpointRecipe
from tellapart.training.checkpointing.state import State
from tellapart.training.checkpointing.store import Checkpoint, load_checkpoint, save_checkpoint
from tellapart.training.execution.distributed import SINGLE_PROCESS, Ranks

_MAX_TIME_SHARE = 0.01  # of training that checkpoints may take, for any interval


class CheckpointPolicy:
    """Saves the state of a run by minutes and by steps. identity: of the run that the checkpoints belong to."""

    def __init__(self, directory: Path, identity: str, recipe: CheckpointRecipe) -> None:
        self.folder = RunDirectory(directory).checkpoints
        self.identity = identity
        self.steps = recipe.steps
        self.interval = 60 * recipe.minutes  # in seconds
        self._last_time = time.monotonic()
        self._last_duration = 0.0
        self._last_saved = (-1, -1)  # step and epoch

    def save_if_due(self, state: State) -> None:
        """Save if the steps or the minutes since the last checkpoint have passed."""
        is_due = self.steps is not None and state.step % self.steps == 0
        interval = max(self.interval, self._last_duration / _MAX_TIME_SHARE)
        if is_due or time.monotonic() - self._last_time >= interval:
            self.save(state)

    def save(self, state: State) -> None:
        """Save now, unless this state is saved already; raises `SaveError`."""
        if (state.step, state.epoch) == self._last_saved:
            return
        start = time.monotonic()
        document = {"identity": self.identity, **state.document()}
        save_checkpoint(self.folder, state.step, state.tensors(), document)
        self._last_time, self._last_saved = time.monotonic(), (state.step, state.epoch)
        self._last_duration = self._last_time - start


def load_own_checkpoint(
    directory: Path, identity: str, progress: Progress, ranks: Ranks = SINGLE_PROCESS
) -> Checkpoint | None:
    """Return the newest intact checkpoint of the run in `directory` on all ranks, or None; only rank 0 reads it.

    Raises `CheckpointError` if all checkpoints are damaged, or they belong to another run.
    """
    checkpoint = _load(directory, identity, progress) if ranks.is_first else None
    if ranks.world_size == 1:
        return checkpoint
    groups = ranks.broadcast(lambda: sorted(checkpoint.tensors) if checkpoint else None)
    if groups is None:
        return None
    source = checkpoint or Checkpoint({}, {}, ())
    document = ranks.broadcast(lambda: source.document)
    tensors = {}
    for group in groups:
        content = ranks.broadcast_bytes(partial(safetensors.torch.save, source.tensors.get(group, {})))
        tensors[group] = safetensors.torch.load(content)
    return Checkpoint(tensors, document, source.damaged)


def _load(directory: Path, identity: str, progress: Progress) -> Checkpoint | None:
    checkpoint = load_checkpoint(RunDirectory(directory).checkpoints)
    if checkpoint is None:
        return None
    for name in checkpoint.damaged:
        progress.warn(Event.CHECKPOINT_DAMAGED, f"The checkpoint {name} is damaged and is ignored.", name=name)
    if checkpoint.document["identity"] != identity:
        raise other_run_error(directory)
    return checkpoint


def other_run_error(directory: Path) -> CheckpointError:
    """Return the error for a run that cannot be resumed because its inputs differ."""
    return CheckpointError(
        f"The run in {printable(str(directory))} was started with other images, another split or other weights: use "
        "the same inputs to resume it, or choose another directory with --out."
    )

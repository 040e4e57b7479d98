"""`train(source, recipe) -> Run`: the whole pipeline."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from tellapart.data.dataset import SPLITS
from tellapart.data.sources import Source
from tellapart.errors import RecipeError
from tellapart.pipeline.finish import finish_run, time_budget
from tellapart.pipeline.prepare import PreparedRun, override_recipe, prepare_run
from tellapart.pipeline.rank_broadcast import broadcast_run, share_prepared
from tellapart.progress import Progress, default_progress
from tellapart.recipe.overrides import RecipeOverrides
from tellapart.recipe.recipe import RecipeLike
from tellapart.runs.run import Run, create_run, read_run
from tellapart.tracking.callbacks import CallbackList, create_callbacks
from tellapart.tracking.tracker_names import check_trackers
from tellapart.training.checkpointing.policy import load_own_checkpoint
from tellapart.training.checkpointing.signals import OnInterrupt, parse_on_interrupt
from tellapart.training.execution.distributed import Ranks, join_ranks
from tellapart.training.execution.glibc_malloc import retain_freed_memory
from tellapart.training.execution.plan import ExecutionPlan, use_threads
from tellapart.training.fit import TrainingSession
from tellapart.training.time_budget import TimeBudget


def train(
    source: Source,
    recipe: RecipeLike = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    track: Sequence[str] = (),
    progress: Progress | None = None,
    on_interrupt: str = "stop",
    finish: bool = False,
    **settings: Unpack[RecipeOverrides],
) -> Run:
    """Audit, split, train, calibrate, test once, and save; return the run.

    source: as for `load_dataset`. recipe: every setting of the run, or a TOML file with them; `settings` replace some,
    as in model="resnet18", seed=1, epochs=5, max_time="5m", weights="resnet18.pth", head=[256], freeze_backbone=True,
    augment=None or batch_size=32; a model that ends in .toml is a network definition. out: the run directory,
    runs/<source> by default. resume: continue the run in `out`, if there is one; without it an existing run is never
    overwritten. track: experiment trackers, "tensorboard" or "mlflow:URI", as for
    `tellapart.tracking.callbacks.create_callbacks`. progress: receives messages and progress bars; by default messages
    are printed on stderr, with bars in a terminal or a notebook. on_interrupt: after Ctrl-C, "stop" saves the state for
    resume=True and raises `InterruptedTrainingError`, "finish" ends training with the best weights so far and tests
    them, "ask" asks in the terminal. finish: with resume, finish the interrupted run in `out` now, with its best
    weights so far.

    Raises the subclass of `TellapartError` for the defect of the input.
    """
    started = time.monotonic()
    directory = Path(out) if out is not None else None
    check_trackers(track)
    interruption = parse_on_interrupt(on_interrupt)
    if finish and not resume:
        raise RecipeError("finish continues an interrupted run: set resume too, as in --resume --finish.")
    with join_ranks() as ranks:
        progress = (progress or default_progress()) if ranks.is_first else Progress()
        prepared = share_prepared(
            ranks,
            source,
            lambda: prepare_run(source, override_recipe(recipe, settings), directory, resume, progress),
        )
        budget = time_budget(prepared, started)
        pipeline = _Pipeline(prepared, ranks, progress, budget, track, interruption, finish)
        if not prepared.finished:
            with retain_freed_memory():
                run = pipeline.run()
        else:
            run = pipeline.read_finished() if ranks.is_first else None
        return broadcast_run(ranks, run, prepared.directory)


@dataclass(frozen=True)
class _Pipeline:
    """All stages after the split."""

    prepared: PreparedRun
    ranks: Ranks
    progress: Progress
    budget: TimeBudget | None
    track: Sequence[str] = ()
    on_interrupt: OnInterrupt = OnInterrupt.STOP
    finishes: bool = False

    def run(self) -> Run | None:
        """Train, calibrate, test and save; return the run on the first rank, None on the others."""
        prepared, ranks, directory = self.prepared, self.ranks, self.prepared.directory
        checkpoint = load_own_checkpoint(directory, prepared.identity, self.progress, ranks)
        callbacks = self._callbacks(self.track if ranks.is_first else ())
        session = TrainingSession(
            audit=prepared.audit,
            train=prepared.splits.train,
            validation=prepared.splits.validation,
            recipe=prepared.recipe,
            identity=prepared.identity,
            directory=directory,
            progress=self.progress,
            ranks=ranks,
            budget=self.budget,
            on_epoch=callbacks.on_epoch_end,
            on_interrupt=self.on_interrupt,
            finishes=self.finishes,
        )
        architecture, network = session.start()
        if ranks.is_first:
            create_run(directory, prepared.recipe, prepared.identity, prepared.audit, prepared.splits)
            callbacks.on_train_begin(prepared.recipe, self._metadata())
        try:
            fit_result = session.run(architecture, network, checkpoint)
            if not ranks.is_first:
                return None
            with use_threads(ExecutionPlan.of(prepared.recipe).threads):
                run = finish_run(prepared, fit_result, self.progress)
            callbacks.on_train_end(run)
        except BaseException:
            callbacks.on_exception()
            raise
        return run

    def read_finished(self) -> Run:
        """Return the finished run, and log it: it may have been interrupted before all was logged."""
        run = read_run(self.prepared.directory)
        if self.track:
            callbacks = self._callbacks(self.track)
            callbacks.on_train_begin(self.prepared.recipe, self._metadata())
            callbacks.on_epoch_end(run.history)
            callbacks.on_train_end(run)
        return run

    def _callbacks(self, trackers: Sequence[str]) -> CallbackList:
        return create_callbacks(trackers, self.prepared.directory, self.prepared.title, self.progress)

    def _metadata(self) -> dict[str, Any]:
        sizes = dict(zip(SPLITS, map(len, self.prepared.splits.as_tuple()), strict=True))
        return {"fingerprint": self.prepared.audit.fingerprint, "identity": self.prepared.identity, **sizes}

"""Training from rows of audited images to a network, as runs, folds and trials of a search share it."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from tellapart.classifier.architecture import Architecture
from tellapart.classifier.classifier import Classifier
from tellapart.classifier.file import package_versions
from tellapart.classifier.forward import default_device
from tellapart.data.audit import Audit
from tellapart.data.batching import PixelDataset, pixel_batches
from tellapart.data.image_summary import pixel_digest
from tellapart.data.pixel_cache import LazyPixels, open_pixels
from tellapart.data.split import Rows
from tellapart.models.base import Network
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.progress import Event, Progress
from tellapart.recipe.recipe import Recipe
from tellapart.training.checkpointing.signals import OnInterrupt
from tellapart.training.checkpointing.state import History, State
from tellapart.training.checkpointing.store import Checkpoint
from tellapart.training.execution.determinism import use_deterministic_algorithms
from tellapart.training.execution.distributed import SINGLE_PROCESS, Ranks
from tellapart.training.execution.plan import use_threads
from tellapart.training.initialization import initial_preprocess, initialize_network, load_teacher
from tellapart.training.linear_probe import fit_linear_probe
from tellapart.training.time_budget import TimeBudget
from tellapart.training.trainer import Trainer

_STATISTICS_IMAGES = 5000  # maximum number of training images for the mean and standard deviation


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """A trained classifier, not calibrated, with its training and validation splits and the training history.

    audit, pixels: all images of the source, from which further splits can be selected. selected_epoch: the epoch of its
    weights, 0 for the linear probe, None for several networks. finished_early: whether the user ended training before
    its last epoch.
    """

    classifier: Classifier
    train: PixelDataset
    validation: PixelDataset
    history: History
    audit: Audit
    pixels: LazyPixels
    selected_epoch: int | None = None
    finished_early: bool = False

    def select(self, rows: Rows) -> PixelDataset:
        """Return the images of some rows of the source."""
        return pixel_subset(self.audit, self.pixels, rows)


@dataclass(frozen=True, kw_only=True)
class TrainingSession:
    """Trains the network of a resolved recipe on some rows, and selects the weights that are best on others.

    identity: of the run, stored in its checkpoints in `directory`. budget: the time limit; by default
    `schedule.max_time` limits training alone. on_epoch, on_interrupt, finishes: as for `Trainer`.
    """

    audit: Audit
    train: Rows
    validation: Rows
    recipe: Recipe
    identity: str
    directory: Path
    progress: Progress
    ranks: Ranks = SINGLE_PROCESS
    budget: TimeBudget | None = None
    on_epoch: Callable[[History], None] = field(default=lambda history: None)
    on_interrupt: OnInterrupt = OnInterrupt.STOP
    finishes: bool = False

    def start(self) -> tuple[Architecture, Network]:
        """Return the network with its initial weights; raises what `initialize_network` raises."""
        torch.manual_seed(self.recipe.seed)
        num_classes = len(self.audit.dataset.classes)
        return self.ranks.run_in_turn(lambda: initialize_network(self.recipe, num_classes, self.progress))

    def run(self, architecture: Architecture, network: Network, checkpoint: Checkpoint | None = None) -> FitResult:
        """Train, from a checkpoint if there is one; raises what `Trainer.fit` raises."""
        self._require_same_inputs()
        network = network.to(default_device())
        settings = initial_preprocess(self.recipe)
        resizer = Preprocess(settings)
        pixels = open_pixels(self.audit, resizer.resize, resizer.resize_key(), settings.size, self.progress)
        train, validation = (pixel_subset(self.audit, pixels, rows) for rows in (self.train, self.validation))
        if not self.recipe.model.pretrained:
            mean, std = self.ranks.broadcast(lambda: _channel_statistics(settings, train, self.progress))
            settings = replace(settings, mean=tuple(mean), std=tuple(std))
        trainer = self._trainer(Preprocess(settings).to(default_device()), train, validation)
        state = self._fit(trainer, network, checkpoint)
        classifier = Classifier(
            architecture=architecture, network=network.eval(), preprocess=settings, classes=self.audit.dataset.classes
        )
        return FitResult(
            classifier=classifier,
            train=train,
            validation=validation,
            history=state.history,
            audit=self.audit,
            pixels=pixels,
            selected_epoch=state.selected_epoch,
            finished_early=state.finished_early,
        )

    def _require_same_inputs(self) -> None:
        """Raise `RankMismatchError` unless all ranks have the same images, labels and package versions."""
        self.ranks.require_same(json.dumps(package_versions()), "package versions")
        self.ranks.require_same(self._labels_digest(), "classes and labels")
        if self.ranks.world_size > 1:
            sample = self.train[:: max(1, len(self.train) // 3)]
            digests = [pixel_digest(self.audit.dataset.images.read(int(row))) for row in sample]
            is_same = all(
                digest == self.audit.digests[row].tobytes() for digest, row in zip(digests, sample, strict=True)
            )
            self.ranks.require_same(str(is_same), "images")

    def _labels_digest(self) -> str:
        dataset = self.audit.dataset
        return hashlib.sha256(json.dumps(dataset.classes).encode() + dataset.labels.tobytes()).hexdigest()

    def _trainer(self, preprocess: Preprocess, train: PixelDataset, validation: PixelDataset) -> Trainer:
        recipe, classes = self.recipe, self.audit.dataset.classes
        return Trainer(
            preprocess=preprocess,
            recipe=recipe,
            train=train,
            validation=validation,
            num_classes=len(classes),
            directory=self.directory,
            identity=self.identity,
            progress=self.progress,
            ranks=self.ranks,
            budget=self.budget or self._training_budget(),
            teacher=load_teacher(recipe, classes),
            frozen_norms=bool(recipe.model.pretrained),
            on_epoch=self.on_epoch,
            on_interrupt=self.on_interrupt,
            finishes=self.finishes,
        )

    def _training_budget(self) -> TimeBudget | None:
        seconds = self.recipe.schedule.max_time
        return None if seconds is None else TimeBudget(seconds, time.monotonic())

    def _fit(self, trainer: Trainer, network: Network, checkpoint: Checkpoint | None) -> State:
        if checkpoint is None:
            self.progress.report(Event.EXECUTION_PLAN, f"Training with {trainer.plan}.")
        with use_threads(trainer.plan.threads), use_deterministic_algorithms(self.recipe.execution.deterministic):
            if trainer.frozen_norms and self.recipe.fine_tuning.linear_probe_epochs and checkpoint is None:
                self.progress.report(Event.LINEAR_PROBE_START, "Fitting a linear probe on the pretrained features.")
                trainer = replace(trainer, probe=fit_linear_probe(trainer, network))
            return trainer.fit(network, checkpoint)


def pixel_subset(audit: Audit, pixels: LazyPixels, rows: Rows) -> PixelDataset:
    """Return the images of some rows, with their labels."""
    return PixelDataset(pixels.rows(rows), audit.dataset.labels[rows].astype(np.int64), rows)


def _channel_statistics(
    settings: PreprocessSettings, train: PixelDataset, progress: Progress
) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation of each channel over the training images."""
    indices = np.arange(0, len(train.rows), math.ceil(len(train.rows) / _STATISTICS_IMAGES))
    batches = []
    with progress.bar("Computing channel statistics", len(indices)) as advance:
        for batch, pixels in pixel_batches(train.pixels, np.array_split(indices, math.ceil(len(indices) / 64))):
            batches.append(pixels)
            advance(len(batch), "")
    images = Preprocess(settings).scale(torch.from_numpy(np.concatenate(batches)))  # n C S S
    mean, std = images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3)).clamp_min(0.01)
    return mean.tolist(), std.tolist()

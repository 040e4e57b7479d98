"""From rows of audited pictures to a trained network: what a run, a trial of a search and a fold have in common."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from tellapart.classifier.classifier import Architecture, Classifier, package_versions
from tellapart.classifier.forward import default_device
from tellapart.data.audit import Audit, pixel_digest
from tellapart.data.batching import Part, pixel_batches
from tellapart.data.pixel_cache import Pixels, open_pixels
from tellapart.data.split import Rows
from tellapart.models import entry
from tellapart.models.base import Network
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_resize import Preprocess
from tellapart.progress import Event, Progress
from tellapart.recipe import Recipe
from tellapart.training.checkpointing.state import History
from tellapart.training.checkpointing.store import Checkpoint
from tellapart.training.execution.autotune import Plan, default_plan, deterministic, fastest_plan, plan_from, threads_of
from tellapart.training.execution.distributed import ONE, Ranks
from tellapart.training.freezing import freeze, set_mode
from tellapart.training.initialization import starting_network, starting_preprocess, teacher_of
from tellapart.training.linear_probe import fit_head
from tellapart.training.trainer import Trainer

_STATISTICS_FROM = 5000  # training pictures that mean and deviation are taken from


@dataclass(frozen=True)
class Fitted:
    """A trained classifier, not calibrated yet, the parts it was trained and judged on, and the course of training.

    found, pixels: the pictures of the whole source, of which further parts can be taken. plan: how it was computed.
    """

    classifier: Classifier
    train: Part
    validation: Part
    history: History
    found: Audit
    pixels: Pixels
    plan: Plan = field(default_factory=lambda: Plan(threads=torch.get_num_threads()))

    def part(self, rows: Rows) -> Part:
        """Return the pictures of some rows."""
        return part_of(self.found, self.pixels, rows)


@dataclass(frozen=True)
class Fitting:
    """Trains the network of a resolved recipe on some rows, and keeps the weights that are best on others.

    identity: tells whose checkpoints those in `directory` are. on_epoch: called with the history after each epoch.
    """

    found: Audit
    train: Rows
    validation: Rows
    recipe: Recipe
    identity: str
    directory: Path
    progress: Progress
    ranks: Ranks = ONE
    on_epoch: Callable[[History], None] = field(default=lambda history: None)

    def start(self) -> tuple[Architecture, Network]:
        """Return the network with the weights that it starts from; raises what `starting_network` raises."""
        torch.manual_seed(self.recipe.seed)
        return self.ranks.in_turn(lambda: starting_network(self.recipe, len(self.found.samples.classes), self.progress))

    def run(self, architecture: Architecture, network: Network, saved: Checkpoint | None = None) -> Fitted:
        """Train; saved: where to go on. Raises what `Trainer.fit` raises."""
        self._agree()
        network = network.to(default_device())
        settings = starting_preprocess(self.recipe)
        resizer = Preprocess(settings)
        pixels = open_pixels(self.found, resizer.resize, resizer.resize_key(), settings.size, self.progress)
        train, validation = (part_of(self.found, pixels, rows) for rows in (self.train, self.validation))
        if not self.recipe.pretrained:
            settings = self.ranks.from_first(lambda: _with_statistics(settings, train, self.progress))
        plan = self.ranks.from_first(lambda: self._plan(network, saved))
        history = self._fit(network, plan, Preprocess(settings), train, validation, saved)
        classifier = Classifier(architecture, network.eval(), settings, self.found.samples.classes)
        return Fitted(classifier, train, validation, history, self.found, pixels, plan)

    def _agree(self) -> None:
        """Make sure that all ranks see the same pictures with the same releases."""
        found, rows = self.found, self.train[:: max(1, len(self.train) // 3)]
        self.ranks.agree(json.dumps(package_versions()), "releases of packages")
        if self.ranks.count > 1:
            digests = [pixel_digest(found.samples.pictures.picture(int(row))) for row in rows]
            same = all(digest == found.digests[row].tobytes() for digest, row in zip(digests, rows, strict=True))
            self.ranks.agree(str(same), "pictures")

    def _fit(
        self,
        network: Network,
        plan: Plan,
        preprocess: Preprocess,
        train: Part,
        validation: Part,
        saved: Checkpoint | None,
    ) -> History:
        fine_tuning, classes = bool(self.recipe.pretrained), self.found.samples.classes
        recipe = self.recipe.with_values(training__precision=plan.precision)
        trainer = Trainer(
            preprocess.to(default_device()),
            recipe,
            train,
            validation,
            len(classes),
            self.directory,
            self.identity,
            self.progress,
            plan=plan,
            ranks=self.ranks,
            teacher=teacher_of(recipe, classes),
            frozen_norms=fine_tuning,
            on_epoch=self.on_epoch,
        )
        with threads_of(plan), deterministic(recipe.training.deterministic):
            if fine_tuning and recipe.training.head_epochs and saved is None:
                began = time.monotonic()
                self.progress.report(Event.LINEAR_PROBE_START, "Fitting the head on frozen features.")
                fit_head(trainer, network)
                trainer = replace(trainer, spent=time.monotonic() - began)
            return trainer.fit(network, saved).history

    def _plan(self, network: Network, saved: Checkpoint | None) -> Plan:
        """Return how this machine computes the steps: as the run began, or what is fastest here."""
        if saved is not None:
            return plan_from(saved.document["plan"])
        training = self.recipe.training
        plan = default_plan(training.precision, entry(str(self.recipe.model)).fast_bfloat16)
        if training.autotune:
            size, batch = self.recipe.preprocess.size or 0, training.batch_size or 64
            per_piece = max(2, batch // (self.ranks.count * training.accumulate))
            freeze(network, training)
            set_mode(network, training, bool(self.recipe.pretrained))
            plan = fastest_plan(network, size, per_piece, plan, training.precision)
        self.progress.report(Event.EXECUTION_PLAN, f"Computing in {plan}.")
        return plan


def part_of(found: Audit, pixels: Pixels, rows: Rows) -> Part:
    """Return the pictures of some rows, with their labels."""
    return Part(pixels.rows(rows), found.samples.labels[rows].astype(np.int64), rows)


def _with_statistics(settings: PreprocessSettings, train: Part, progress: Progress) -> PreprocessSettings:
    """Return the settings with mean and deviation of the training pictures."""
    places = np.arange(0, len(train.rows), math.ceil(len(train.rows) / _STATISTICS_FROM))
    found = []
    with progress.bar("Measuring brightness", len(places)) as advance:
        for block, pixels in pixel_batches(train.pixels, np.array_split(places, math.ceil(len(places) / 64))):
            found.append(pixels)
            advance(len(block), "")
    scaled = Preprocess(settings).scale(torch.from_numpy(np.concatenate(found)))  # n C S S
    mean, std = scaled.mean(dim=(0, 2, 3)), scaled.std(dim=(0, 2, 3)).clamp_min(0.01)
    return replace(settings, mean=tuple(mean.tolist()), std=tuple(std.tolist()))

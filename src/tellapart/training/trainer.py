"""The training loop: `fit` runs epochs, `_run_epoch` runs steps, `_step` runs micro-batches.

`fit` decides when to validate and to stop, `_run_epoch` the order of the images and when to save, `_step` performs one
update of the weights, and `_forward` computes the loss from pixels. With several ranks, each computes its share of
every batch, and their weights stay equal.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tellapart.augment import augment, mix
from tellapart.data.batching import PixelDataset, prefetch
from tellapart.errors import TrainingDivergedError
from tellapart.models.base import Network
from tellapart.models.norm_folding import folded_norms
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.progress import Event, Progress
from tellapart.recipe.recipe import Recipe
from tellapart.training.batch_indices import Batch, plan_batches
from tellapart.training.checkpointing.policy import CheckpointPolicy
from tellapart.training.checkpointing.signals import OnInterrupt, StopRequest, stop_requests
from tellapart.training.checkpointing.state import History, State
from tellapart.training.checkpointing.store import Checkpoint
from tellapart.training.class_balance import class_weights
from tellapart.training.distillation import Teacher
from tellapart.training.early_stopping import end_if_not_improving, planned_epochs
from tellapart.training.ema import WeightAverage
from tellapart.training.execution.cross_rank_norm import use_cross_rank_norms
from tellapart.training.execution.distributed import SINGLE_PROCESS, Ranks
from tellapart.training.execution.plan import ExecutionPlan
from tellapart.training.execution.seeding import seed_torch
from tellapart.training.execution.training_module import local_gradients, training_module
from tellapart.training.freezing import freeze, set_mode
from tellapart.training.losses import Loss
from tellapart.training.optimizers import make_optimizer
from tellapart.training.progressive_resizing import shrink, size_at, size_step
from tellapart.training.reporting import epoch_message, epoch_title, progress_note, selection_message, stopping_message
from tellapart.training.schedules import set_learning_rate
from tellapart.training.time_budget import TimeBudget
from tellapart.training.validation import Metrics, Validator


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Everything that does not change during training. The recipe is resolved: all that training needs has a value.

    frozen_norms: in fine-tuning, keep the pretrained statistics of BatchNorm. probe: the training metrics and the
    duration of the linear probe. budget: the time limit, instead of `schedule.epochs`. on_epoch: called with the
    history after each epoch. ranks: the processes that train together. on_interrupt: what Ctrl-C does. finishes: end
    after the epoch of the checkpoint, with the best weights so far.
    """

    preprocess: Preprocess
    recipe: Recipe
    train: PixelDataset
    validation: PixelDataset
    num_classes: int
    directory: Path
    identity: str
    progress: Progress
    ranks: Ranks = SINGLE_PROCESS
    teacher: Teacher | None = None
    frozen_norms: bool = False
    probe: Metrics | None = None
    budget: TimeBudget | None = None
    on_epoch: Callable[[History], None] = field(default=lambda history: None)
    on_interrupt: OnInterrupt = OnInterrupt.STOP
    finishes: bool = False

    def fit(self, network: Network, checkpoint: Checkpoint | None = None) -> State:
        """Train until the epochs, the time or the patience are used up; the network ends with its best weights.

        checkpoint: to resume from. Raises `TrainingDivergedError`, `SaveError`, or `InterruptedTrainingError` after a
        signal, when the state is saved.
        """
        state = self._start(network, checkpoint)
        policy = CheckpointPolicy(self.directory, self.identity, self.recipe.checkpoint)
        with stop_requests(self.finishes) as stop_request:
            if self.ranks.is_first and state.history:
                self.on_epoch(state.history)
            while not self.ranks.broadcast(lambda: self._is_finished(state, stop_request)):
                self._run_epoch(state, policy, stop_request)
                with self.measured_validation():
                    self.validator.validate_epoch(state)
                if end_if_not_improving(self.recipe.schedule, state):
                    message = stopping_message(self.recipe.schedule, state)
                    self.progress.report(Event.EARLY_STOPPING, message, last_epoch=state.last_epoch)
                if self.ranks.is_first:
                    self.on_epoch(state.history)
                message = epoch_message(self.recipe.schedule, state, self._seconds_left(state))
                self.progress.report(Event.EPOCH_END, message, **state.history[-1])
                state.start_next_epoch()
        if self.ranks.is_first:
            policy.save(state)  # the steps after training may be interrupted too
        state.network.load_state_dict(state.best)
        message = selection_message(self.recipe.schedule.monitor, state, len(self.validation.rows))
        self.progress.report(Event.TRAINING_END, message, epoch=state.selected_epoch)
        return state

    @cached_property
    def plan(self) -> ExecutionPlan:
        """How steps are computed."""
        return ExecutionPlan.of(self.recipe)

    @cached_property
    def validator(self) -> Validator:
        """Validates the weights after each epoch."""
        return Validator(
            preprocess=self.preprocess,
            recipe=self.recipe,
            train_labels=self.train.labels,
            validation=self.validation,
            num_classes=self.num_classes,
            ranks=self.ranks,
        )

    @cached_property
    def _loss(self) -> Loss:
        return Loss(self.recipe, class_weights(self.recipe.loss, self.train.labels, self.num_classes))

    @property
    def _device(self) -> torch.device:
        return self.preprocess.mean.device

    def _start(self, network: Network, checkpoint: Checkpoint | None) -> State:
        recipe = self.recipe
        network.activation_checkpointing = recipe.execution.activation_checkpointing
        freeze(network, recipe.fine_tuning)
        if recipe.execution.sync_batch_norm and self.ranks.world_size > 1:
            use_cross_rank_norms(network)
        network.to(memory_format=self.plan.memory_format)  # type: ignore[call-overload]
        optimizer = make_optimizer(network, recipe, fine_tuning=self.frozen_norms)
        average = WeightAverage(network, recipe.optimizer.ema_decay) if recipe.optimizer.ema_decay else None
        state = State(network, optimizer, average, training_module(network, self.plan, self.ranks))
        if checkpoint is not None:
            state.restore(checkpoint.tensors, checkpoint.document)
            if self.budget:
                self.budget.resume(state.seconds)
            message = f"Resuming in epoch {state.epoch}, after step {state.step}."
            self.progress.report(Event.TRAINING_RESUMED, message, step=state.step, epoch=state.epoch)
            return state
        state.seconds = state.probe_seconds = state.epoch_start = self.probe["seconds"] if self.probe else 0.0
        if self.frozen_norms:
            with self.measured_validation():
                metrics = self.validator.validate_probe(state)
            if self.probe:
                state.history.append({"epoch": 0, "step": 0} | self.probe | metrics)
            message = f"Linear probe: validation accuracy {metrics['validation_accuracy']:.1%}."
            self.progress.report(Event.LINEAR_PROBE_END, message, **metrics)
        return state

    def _is_finished(self, state: State, stop_request: StopRequest) -> bool:
        schedule, epochs = self.recipe.schedule, state.epoch - 1
        if state.finished_early:
            return True
        if stop_request.finishes and state.best and not state.batch:
            state.finished_early = schedule.epochs is None or epochs < schedule.epochs
            message = f"Finishing early, after step {state.step}."
            self.progress.report(Event.TRAINING_FINISHED_EARLY, message, step=state.step)
            return True
        if self.budget and state.history and not state.batch and self.budget.left_for_training(state.seconds) <= 0:
            return True
        last_epoch = planned_epochs(schedule, state)
        return last_epoch is not None and epochs >= last_epoch

    def _run_epoch(self, state: State, policy: CheckpointPolicy, stop_request: StopRequest) -> None:
        """Run the remaining batches of the epoch."""
        batches = plan_batches(self.train, self.recipe, state.epoch, self.ranks)
        set_mode(state.network, self.recipe.fine_tuning, self.frozen_norms)
        start, images_before = state.seconds, state.sums[2]
        title = epoch_title(self.recipe.schedule, state)
        with folded_norms(state.network), self.progress.bar(title, len(self.train.rows)) as advance:
            advance(int(images_before), "")
            for number, (batch, pixels) in enumerate(prefetch(self._fetch, batches[state.batch :]), state.batch):
                fraction = self._fraction_done(state, number / len(batches))
                if fraction >= 1 and number:
                    break
                set_learning_rate(state.optimizer, self.recipe.schedule.name, fraction)
                self._step(state, batch, pixels, size_at(self.recipe, fraction, size_step(state.network)))
                state.batch = number + 1
                rate = (state.sums[2] - images_before) / max(1e-9, state.seconds - start)
                advance(len(batch.indices), progress_note(state.sums, rate))
                if self.ranks.is_first:
                    self._save(state, policy, stop_request)
                if stop_request.finishes and self.ranks.world_size == 1:
                    break

    def _save(self, state: State, policy: CheckpointPolicy, stop_request: StopRequest) -> None:
        """Save if a checkpoint is due; after a stop request, save and stop, unless the run is to be finished."""
        if stop_request:
            policy.save(state)
            stop_request.decide(self.on_interrupt, epoch_title(self.recipe.schedule, state).lower(), self.progress)
        if stop_request:
            raise stop_request.error(state.step)
        policy.save_if_due(state)

    def _step(self, state: State, batch: Batch, pixels: list[Tensor], size: int) -> None:
        """Update the weights by one batch; pixels: of each micro-batch (n, S, S, 3)."""
        # Dropout draws from PyTorch's generator. Seeding it per step makes a resumed run draw the same numbers.
        seed = ((self.recipe.seed << 30) + state.step) * self.ranks.world_size + self.ranks.rank
        seed_torch(seed, pixels[0].device)
        state.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(3, device=self._device)  # loss, correct predictions, images
        for number, positions in enumerate(batch.micro_batches):
            with local_gradients(state.forward, number + 1 < len(pixels)):
                loss, correct = self._forward(state, batch, positions, pixels[number], size)
                # DistributedDataParallel averages over ranks; every image of the batch has the same weight.
                (loss * (self.ranks.world_size / len(batch.indices))).backward()  # type: ignore[no-untyped-call]
            sums += torch.stack([loss.detach(), correct, torch.full_like(correct, len(positions))])
        state.optimizer.step()
        state.step += 1
        if state.average:
            state.average.update(state.network)
        totals = self.ranks.sum(sums).tolist()
        if not math.isfinite(totals[0]):
            raise TrainingDivergedError(
                f"Expected a finite loss, found {totals[0]} at step {state.step} (epoch {state.epoch}): use a lower "
                "learning rate, as in --set optimizer.learning_rate=0.0005; the checkpoint before this step is intact."
            )
        state.sums = [total + value for total, value in zip(state.sums, totals, strict=True)]

    def _forward(
        self, state: State, batch: Batch, positions: NDArray[np.int64], pixels: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses of a micro-batch, with its gradient, and the number of correct predictions."""
        settings, seed, keys = self.recipe.augment, self.recipe.seed, batch.keys[positions]
        labels = torch.from_numpy(self.train.labels[batch.indices[positions]]).to(pixels.device)  # n
        images = self.preprocess.scale(pixels)  # n C S S
        images = augment(images, settings, seed, state.epoch, keys)
        targets = labels  # n, or n K for mixed images
        if settings.mixup or settings.cutmix:
            images, targets = mix(images, labels, settings, seed, state.epoch, keys, self.num_classes)
        soft_targets = self.teacher.soft_targets(images) if self.teacher else None
        images = self.preprocess.normalize(shrink(images, size)).to(memory_format=self.plan.memory_format)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.plan.bfloat16):
            outputs = state.forward(images)  # pairs of weight and logits (n, K)
        losses = [weight * self._loss.row_losses(logits.float(), targets, soft_targets) for weight, logits in outputs]
        return torch.stack(losses).sum(), (outputs[0][1].argmax(dim=1) == labels).sum().float()

    def _fetch(self, batch: Batch) -> list[Tensor]:
        """Return the pixels of this rank's micro-batches, on the device or in transfer to it."""
        arrays = [torch.from_numpy(self.train.pixels[batch.indices[positions]]) for positions in batch.micro_batches]
        if self._device.type != "cuda":
            return [pixels.to(self._device) for pixels in arrays]
        return [pixels.pin_memory().to(self._device, non_blocking=True) for pixels in arrays]

    def _fraction_done(self, state: State, fraction_of_epoch: float) -> float:
        """Return the completed fraction 0..1 of training, by the clock of rank 0 if time is limited."""
        if last_epoch := planned_epochs(self.recipe.schedule, state):
            return (state.epoch - 1 + fraction_of_epoch) / last_epoch
        return self.ranks.broadcast(lambda: self._fraction_by_clock(state))

    def _fraction_by_clock(self, state: State) -> float:
        spent = state.seconds - state.probe_seconds
        return spent / max(1e-9, spent + self._seconds_left(state))

    def _seconds_left(self, state: State) -> float:
        """Return the estimated seconds until training ends."""
        if self.budget:
            return max(0.0, self.budget.left_for_training(state.seconds))
        epochs, total = state.epoch - 1, planned_epochs(self.recipe.schedule, state) or 0
        return (state.seconds - state.probe_seconds) / max(1, epochs) * (total - epochs)

    def measured_validation(self) -> AbstractContextManager[None]:
        """Return a context in which the validation images are predicted, for the time limit."""
        return self.budget.measure_prediction(len(self.validation.rows)) if self.budget else nullcontext()

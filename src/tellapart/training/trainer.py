"""The training ladder: `fit` runs epochs, an epoch runs steps, a step runs pieces; each can be read alone.

`fit` owns when to validate and stop, `_epoch` the order of rows and when to save, `_step` one update of the weights,
`_piece` the way from pixels to a loss. Several ranks take their share of every batch and stay alike.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tellapart.augment import augment, mix
from tellapart.classifier.forward import logits
from tellapart.data.batching import Part, prefetched, rows_of
from tellapart.errors import TrainingDiverged
from tellapart.models.base import Network
from tellapart.preprocess.torch_resize import Preprocess
from tellapart.progress import Event, Progress
from tellapart.recipe import Recipe, TrainingRecipe
from tellapart.training.batch_plan import Batch, batches_of
from tellapart.training.checkpointing.policy import Saver
from tellapart.training.checkpointing.signals import StopRequest, stop_requests
from tellapart.training.checkpointing.state import History, Score, State
from tellapart.training.checkpointing.store import Checkpoint
from tellapart.training.class_balance import class_weights, correct_prior
from tellapart.training.distillation import Teacher
from tellapart.training.ema import WeightAverage
from tellapart.training.execution.autotune import Plan
from tellapart.training.execution.cpu_contention import BusyWatch
from tellapart.training.execution.distributed import ONE, Ranks, use_cross_rank_norms
from tellapart.training.execution.seeding import seed_draws
from tellapart.training.freezing import freeze, set_mode
from tellapart.training.losses import Loss
from tellapart.training.optimizers import make_optimizer
from tellapart.training.progressive_resizing import shrunk, size_at, size_step
from tellapart.training.schedules import set_rate
from tellapart.training.validation import judge
from tellapart.uncertainty.softmax import softmax


@dataclass(frozen=True)
class Trainer:
    """What stays the same while training. The recipe is resolved: nothing in it that training needs is None.

    frozen_norms: keep BatchNorm's published statistics, when fine-tuning. spent: seconds that the head took.
    on_epoch: called with the history after each epoch. ranks: the processes that train together.
    """

    preprocess: Preprocess
    recipe: Recipe
    train: Part
    validation: Part
    num_classes: int
    directory: Path
    identity: str
    progress: Progress
    plan: Plan = field(default_factory=Plan)
    ranks: Ranks = ONE
    teacher: Teacher | None = None
    frozen_norms: bool = False
    spent: float = 0.0
    on_epoch: Callable[[History], None] = field(default=lambda history: None)

    def fit(self, network: Network, saved: Checkpoint | None = None) -> State:
        """Train until the epochs or the budget are used up, or patience is; the network ends with its best weights.

        saved: where to go on. Raises `TrainingDiverged`, `CannotSave`, or `Interrupted` when the system asks it to end,
        the state saved.
        """
        state = self._start(network, saved)
        saver = Saver(self.directory, self.identity, self._training, self.plan)
        with stop_requests() as asked:
            while not self.ranks.from_first(lambda: self._finished(state)):
                self._epoch(state, saver, asked)
                self._validate(state)
                if self.ranks.first:
                    self.on_epoch(state.history)
                self.progress.report(Event.EPOCH_END, self._line(state), **state.history[-1])
                state.next_epoch()
        if self.ranks.first:
            saver.save(state)  # what follows may be cut short too
        state.network.load_state_dict(state.best)
        kept = f"the weights of epoch {state.kept_epoch}" if state.kept_epoch else "the head alone: nothing did better"
        self.progress.report(Event.TRAINING_END, f"Kept {kept}.{self._why(state)}", epoch=state.kept_epoch)
        return state

    def judge(self, network: Network) -> tuple[Score, dict[str, float]]:
        """Return the monitored figure with its standard error, and all validation figures."""
        pixels = self.validation.pixels
        found = self.ranks.rows(lambda places: logits(network, self.preprocess, rows_of(pixels, places)), len(pixels))
        return judge(softmax(found), self.validation.labels, self.num_classes, self._training.monitor)

    @property
    def _training(self) -> TrainingRecipe:
        return self.recipe.training

    @cached_property
    def _watch(self) -> BusyWatch:
        alone = self.ranks.count == 1 and self.preprocess.mean.device.type == "cpu"  # else a step waits for others too
        return BusyWatch(self.progress, self.plan.threads if alone else 1)

    @cached_property
    def _loss(self) -> Loss:
        return Loss(self._training, class_weights(self._training, self.train.labels, self.num_classes))

    def _start(self, network: Network, saved: Checkpoint | None) -> State:
        training = self._training
        network.checkpoint_activations = training.checkpoint_activations
        freeze(network, training)
        if training.sync_batch_norm and self.ranks.count > 1:
            use_cross_rank_norms(network)
        network.to(memory_format=self.plan.memory_format)  # type: ignore[call-overload]
        optimizer = make_optimizer(network, training, fine_tuning=self.frozen_norms)
        average = WeightAverage(network, training.ema) if training.ema else None
        tally = nn.Parameter(torch.zeros(3, device=self.preprocess.mean.device))
        state = State(network, optimizer, average, self._wrapped(network, tally), tally)
        if saved is not None:
            state.restore(saved.parts, saved.document)
            self.progress.report(
                Event.TRAINING_RESUMED,
                f"Going on after step {state.step}, in epoch {state.epoch}.",
                step=state.step,
                epoch=state.epoch,
            )
            return state
        state.seconds = state.head_seconds = state.epoch_began = self.spent
        if self.frozen_norms:
            self._judge_start(state)
        return state

    def _wrapped(self, network: Network, tally: nn.Parameter) -> nn.Module:
        forward: nn.Module = _TrainingOutputs(network, tally)
        if self.ranks.count > 1:
            forward = DistributedDataParallel(forward, forward_sync_buffers=False, gradient_as_bucket_view=True)
        if self.plan.compiled:
            forward.compile(mode=self.plan.compiled)
        return forward

    def _finished(self, state: State) -> bool:
        patience, done = self._training.patience, len(state.history)
        if patience and done - state.best_epoch >= patience and not state.batch:
            self.progress.report(
                Event.EARLY_STOPPING, f"No better {self._training.monitor} for {patience} epochs: stopping early."
            )
            return True
        if self._training.budget is not None:
            return done > 0 and not state.batch and state.seconds >= self._training.budget
        return done >= (self._training.epochs or 0)

    def _epoch(self, state: State, saver: Saver, asked: StopRequest) -> None:
        """Run what is left of the epoch."""
        batches = batches_of(self.train, self.recipe, state.epoch, self.ranks)
        set_mode(state.network, self._training, self.frozen_norms)
        began, before = state.seconds, state.sums[2]
        with self.progress.bar(f"Epoch {state.epoch}{self._of_epochs()}", len(self.train.rows)) as advance:
            advance(int(before), "")
            upcoming = enumerate(prefetched(self._fetch, batches[state.batch :]), state.batch)
            for number, (batch, pixels) in upcoming:
                done = self._share_done(state, number / len(batches))
                if done >= 1 and number:
                    break
                set_rate(state.optimizer, self._training.schedule, done)
                with self._watch.step():
                    self._step(state, batch, pixels, size_at(self.recipe, done, size_step(state.network)))
                state.batch = number + 1
                rate = (state.sums[2] - before) / max(1e-9, state.seconds - began)
                advance(len(batch.places), _note(state.sums, rate))
                if self.ranks.first:
                    _save(state, saver, asked)

    def _step(self, state: State, batch: Batch, pixels: list[Tensor], size: int) -> None:
        """Update the weights by one batch, whose pieces are `pixels` (n, S, S, 3)."""
        # Dropout draws from torch's generator: seeded here, a step is the same after a restart.
        seed_draws(((self.recipe.seed << 30) + state.step) * self.ranks.count + self.ranks.rank, pixels[0].device)
        state.optimizer.zero_grad(set_to_none=True)
        state.tally.grad = None
        for number, piece in enumerate(batch.pieces):
            with self._alone(state.forward, number + 1 < len(pixels)):
                loss, hits = self._piece(state, batch, piece, pixels[number], size)
                sums = torch.stack([loss.detach(), hits, torch.full_like(hits, len(piece))])
                # DistributedDataParallel takes the mean over ranks; the rows of all ranks count alike.
                share = loss * (self.ranks.count / len(batch.places))
                (share + (state.tally * sums).sum()).backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        state.step += 1
        if state.average:
            state.average.update(state.network)
        found = state.tallied(self.ranks.count)
        if not math.isfinite(found[0]):
            raise TrainingDiverged(
                f"The loss became {found[0]} at step {state.step} (epoch {state.epoch}): lower the learning rate, as "
                "in --set training.learning_rate=0.0005; the checkpoint before it is kept."
            )
        state.sums = [total + value for total, value in zip(state.sums, found, strict=True)]

    def _piece(
        self, state: State, batch: Batch, piece: NDArray[np.int64], pixels: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses of a piece, with its gradient, and how many rows are right."""
        settings, seed, numbers = self.recipe.augment, self.recipe.seed, batch.numbers[piece]
        labels = torch.from_numpy(self.train.labels[batch.places[piece]]).to(pixels.device)  # n
        images = self.preprocess.scale(pixels)  # n C S S
        images = augment(images, settings, seed, state.epoch, numbers)
        targets = labels  # n, or n K where pictures are mixed
        if settings.mixup or settings.cutmix:
            images, targets = mix(images, labels, settings, seed, state.epoch, numbers, self.num_classes)
        taught = self.teacher.soft_targets(images) if self.teacher else None
        images = self.preprocess.normalise(shrunk(images, size)).to(memory_format=self.plan.memory_format)
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.plan.bfloat16):
            outputs = state.forward(images)  # of n K, each with its weight
        losses = [weight * self._loss.row_losses(part.float(), targets, taught) for weight, part in outputs]
        return torch.stack(losses).sum(), (outputs[0][1].argmax(dim=1) == labels).sum().float()

    def _alone(self, forward: nn.Module, alone: bool) -> AbstractContextManager[None]:
        """Keep gradients to this rank until the last piece of a batch."""
        return forward.no_sync() if alone and isinstance(forward, DistributedDataParallel) else nullcontext()

    def _fetch(self, batch: Batch) -> list[Tensor]:
        """Return the pixels of this rank's pieces, on the device or on their way to it."""
        device = self.preprocess.mean.device
        found = [torch.from_numpy(self.train.pixels[batch.places[piece]]) for piece in batch.pieces]
        if device.type != "cuda":
            return [pixels.to(device) for pixels in found]
        return [pixels.pin_memory().to(device, non_blocking=True) for pixels in found]

    def _validate(self, state: State) -> None:
        """Judge the averaged weights on the validation rows, and keep them if they are as good as the best.

        As good is: within one standard error of it (Breiman et al. 1984, "Classification and regression trees",
        section 3.4.3). On few validation pictures the highest figure is mostly luck, and the later epoch, at a lower
        learning rate, is the better guess.
        """
        loss, hits, seen = state.sums
        figures = {
            "loss": loss / seen,
            "train_accuracy": hits / seen,
            "pictures_per_second": seen / max(1e-9, state.seconds - state.epoch_began),
        }
        with self._judged(state) as (score, judged):
            if score[0] > state.best_score[0]:
                state.best_score, state.best_epoch = score, state.epoch
            if score[0] >= state.best_score[0] - state.best_score[1]:
                state.kept_epoch = state.epoch
                state.keep_weights()
        entry = {"epoch": state.epoch, "step": state.step, **figures, **judged, "seconds": round(state.seconds, 3)}
        state.history.append(entry)

    def _judge_start(self, state: State) -> None:
        """Judge the head alone, before the other layers are trained: nothing worse is kept."""
        with self._judged(state) as (score, judged):
            state.best_score = score
            state.keep_weights()
        self.progress.report(
            Event.LINEAR_PROBE_END, f"Head alone: validation accuracy {judged['validation_accuracy']:.1%}.", **judged
        )

    @contextmanager
    def _judged(self, state: State) -> Iterator[tuple[Score, dict[str, float]]]:
        """Yield how good the averaged weights are; meanwhile the network holds them, ready for the classifier."""
        training_weights = {name: value.clone() for name, value in state.network.state_dict().items()}
        averaged = state.averaged_weights()
        self.ranks.copy_first(averaged)
        state.network.load_state_dict(averaged)
        if self._training.class_balance != "none" and self._training.prior_correction:
            correct_prior(state.network, np.bincount(self.train.labels, minlength=self.num_classes))
        try:
            yield self.judge(state.network)
        finally:
            state.network.load_state_dict(training_weights)

    def _share_done(self, state: State, share_of_epoch: float) -> float:
        """Return how much of training is done, 0..1; ranks must agree, and their clocks do not."""
        budget = self._training.budget
        if budget is None:
            return (state.epoch - 1 + share_of_epoch) / (self._training.epochs or 1)
        whole = max(1.0, budget - state.head_seconds)
        return self.ranks.from_first(lambda: (state.seconds - state.head_seconds) / whole)

    def _why(self, state: State) -> str:
        """Return why the weights with the highest figure are not those that were kept, if so."""
        if state.kept_epoch == state.best_epoch:
            return ""
        figures = {entry["epoch"]: entry[f"validation_{self._training.monitor}"] for entry in state.history}
        if figures.get(state.kept_epoch) == figures.get(state.best_epoch, math.nan):  # no worse, only later
            return ""
        best = f"epoch {state.best_epoch}" if state.best_epoch else "the head alone"
        return (
            f" The best was {best}, by less than {len(self.validation.rows):,} validation pictures can tell (one "
            "standard error), so the later one counts."
        )

    def _of_epochs(self) -> str:
        return "" if self._training.budget is not None else f"/{self._training.epochs}"

    def _line(self, state: State) -> str:
        last, done = state.history[-1], len(state.history)
        left = max(0.0, (self._training.budget or 0.0) - state.seconds)
        if self._training.budget is None:
            left = (state.seconds - state.head_seconds) / done * ((self._training.epochs or 0) - done)
        return (
            f"Epoch {state.epoch}{self._of_epochs()}  loss {last['loss']:.3f}  "
            f"validation accuracy {last['validation_accuracy']:.1%}  "
            f"{last['pictures_per_second']:,.0f} pictures/s  {int(left) // 60}:{int(left) % 60:02d} left"
        )


class _TrainingOutputs(nn.Module):
    """`training_outputs` as a forward pass, for what wraps modules."""

    def __init__(self, network: Network, tally: nn.Parameter) -> None:
        super().__init__()
        self.network, self.tally = network, tally

    def forward(self, images: Tensor) -> list[tuple[float, Tensor]]:
        """(N, C, S, S) -> logits (N, K), each with its weight."""
        return self.network.training_outputs(images)


def _save(state: State, saver: Saver, asked: StopRequest) -> None:
    """Save if it is due; if asked to stop, save and stop."""
    if asked:
        saver.save(state)
        raise asked.error(state.step)
    saver.save_if_due(state)


def _note(sums: list[float], rate: float) -> str:
    return f"loss {sums[0] / sums[2]:.3f}  accuracy {sums[1] / sums[2]:.1%}  {rate:,.0f} pictures/s"

"""The training ladder: `fit` runs epochs, an epoch runs steps, and each can be read alone.

`fit` owns when to validate, save and stop; `_epoch` owns the order of rows; `_step` owns one update of the weights.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tellapart.augment import augment
from tellapart.data.loader import PixelTable, pixel_batches
from tellapart.errors import BadCheckpoint, TrainingDiverged
from tellapart.inference import logits, softmax
from tellapart.metrics import confusion_matrix, precision_recall_f1, row_log_loss
from tellapart.models.network import Network
from tellapart.preprocess import Preprocess
from tellapart.progress import Progress
from tellapart.randomness import shuffled
from tellapart.recipe import Recipe
from tellapart.training.checkpoint import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    take_prefix,
    with_prefix,
)
from tellapart.training.optimise import WeightAverage, make_optimizer, set_rate

History = list[dict[str, Any]]
Score = tuple[float, float]  # the monitored figure, higher is better, and its standard error


@dataclass(frozen=True)
class Part:
    """Resized pixels (n, S, S, 3), labels (n,), and the rows' numbers in the data (n,)."""

    pixels: PixelTable
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]


@dataclass
class State:
    """All that changes while training, and so all that a checkpoint holds."""

    network: Network
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    head_seconds: float = 0.0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_score: Score = (-math.inf, 0.0)
    best_epoch: int = 0
    kept_epoch: int = 0
    history: History = field(default_factory=list)

    def averaged_weights(self) -> dict[str, Tensor]:
        """Return the weights to judge and keep: the average where there is one."""
        return self.average.values if self.average else self.network.state_dict()


@dataclass(frozen=True)
class Trainer:
    """What stays the same while training. The recipe is resolved: nothing in it that training needs is None.

    frozen_norms: keep BatchNorm's published statistics, when fine-tuning. spent: seconds that the head took.
    on_epoch: called with the history after each epoch, when its checkpoint is safe.
    """

    preprocess: Preprocess
    recipe: Recipe
    train: Part
    validation: Part
    num_classes: int
    checkpoints: Path
    identity: str
    progress: Progress
    frozen_norms: bool = False
    spent: float = 0.0
    on_epoch: Callable[[History], None] = lambda history: None

    def fit(self, network: Network) -> State:
        """Train until the epochs or the budget are used up, or patience is; the network ends with its best weights.

        Goes on from the newest checkpoint of the same run, if there is one.
        """
        state = self._start(network)
        while not self._finished(state):
            began = time.monotonic()
            state.epoch += 1
            figures = self._epoch(state)
            self._validate(state, figures)
            state.seconds += time.monotonic() - began
            state.history[-1]["seconds"] = round(state.seconds, 3)
            self._save(state)
            self.on_epoch(state.history)
            self.progress.say(_line(state, self._of_epochs(), self._seconds_left(state)))
        state.network.load_state_dict(state.best)
        kept = f"the weights of epoch {state.kept_epoch}" if state.kept_epoch else "the head alone: nothing did better"
        self.progress.say(f"Kept {kept}.")
        return state

    def _start(self, network: Network) -> State:
        network.checkpoint_activations = self.recipe.training.checkpoint_activations
        if self.recipe.training.frozen_base:
            network.requires_grad_(False)
            network.head.requires_grad_(True)
        optimizer = make_optimizer(network, self.recipe.training, fine_tuning=self.frozen_norms)
        ema = self.recipe.training.ema
        state = State(network, optimizer, WeightAverage(network, ema) if ema else None)
        state.seconds = state.head_seconds = self.spent
        saved = load_checkpoint(self.checkpoints)
        if saved is None and self.frozen_norms:
            state.best_score, _ = self.judge(network)
            state.best = {name: value.clone() for name, value in network.state_dict().items()}
        if saved is not None:
            tensors, document, damaged = saved
            for name in damaged:
                self.progress.say(f"The checkpoint {name} is damaged and was passed over.")
            if document["identity"] != self.identity:
                raise BadCheckpoint(
                    f"The run in {self.checkpoints.parent} was started with other pictures, another split or another "
                    "recipe: choose another folder with --out."
                )
            _restore(state, tensors, document)
            self.progress.say(f"Going on after epoch {state.epoch}.")
        return state

    def _finished(self, state: State) -> bool:
        patience = self.recipe.training.patience
        if patience and state.epoch - state.best_epoch >= patience:
            self.progress.say(f"No better {self.recipe.training.monitor} for {patience} epochs: stopping early.")
            return True
        if self.recipe.training.budget is not None:
            return state.epoch > 0 and state.seconds >= self.recipe.training.budget
        return state.epoch >= (self.recipe.training.epochs or 0)

    def _epoch(self, state: State) -> dict[str, float]:
        """Run one epoch; return its training loss, accuracy and pictures a second."""
        # Dropout draws from torch's generator: seeded here, an epoch is the same after a restart.
        torch.manual_seed((self.recipe.seed << 20) + state.epoch)
        order = shuffled(self.recipe.seed, state.epoch, np.arange(len(self.train.rows)))
        batch_size = min(self.recipe.training.batch_size or 64, len(order))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        if len(batches) > 1 and len(batches[-1]) == 1:  # BatchNorm cannot work on one picture
            batches[-2:] = [np.concatenate(batches[-2:])]
        state.network.train()
        if self.recipe.training.frozen_base:
            state.network.eval()
            state.network.head.train()
        elif self.frozen_norms:
            _freeze_norms(state.network)
        began, seen, loss_sum, hits = time.monotonic(), 0, 0.0, 0
        with self.progress.bar(f"Epoch {state.epoch}{self._of_epochs()}", len(order)) as advance:
            for number, (places, pixels) in enumerate(pixel_batches(self.train.pixels, batches)):
                elapsed = time.monotonic() - began
                done = self._share_done(state, number / len(batches), elapsed)
                if done >= 1 and seen:
                    break
                set_rate(state.optimizer, self.recipe.training.schedule, done)
                loss, right = self._step(state, places, torch.from_numpy(pixels))
                seen, loss_sum, hits = seen + len(places), loss_sum + loss * len(places), hits + right
                rate = seen / (time.monotonic() - began)
                advance(len(places), f"loss {loss_sum / seen:.3f}  accuracy {hits / seen:.1%}  {rate:,.0f} pictures/s")
        seconds = time.monotonic() - began
        return {"loss": loss_sum / seen, "train_accuracy": hits / seen, "pictures_per_second": seen / seconds}

    def _step(self, state: State, places: NDArray[np.int64], pixels: Tensor) -> tuple[float, int]:
        """Update the weights by one batch, `pixels` (n, S, S, 3); return its loss and how many were right."""
        device = next(state.network.parameters()).device
        labels = torch.from_numpy(self.train.labels[places]).to(device)  # n
        images = self.preprocess.scale(pixels.to(device))  # n C S S
        images = augment(images, self.recipe.augment, self.recipe.seed, state.epoch, self.train.rows[places])
        images = self.preprocess.normalise(images).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.training.precision == "bfloat16"):
            outputs = state.network.training_outputs(images)  # of n K, each with its weight
        smoothing = self.recipe.training.label_smoothing
        losses = [w * F.cross_entropy(part.float(), labels, label_smoothing=smoothing) for w, part in outputs]
        loss = torch.stack(losses).sum()
        state.step += 1
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"The loss became {value} at step {state.step} (epoch {state.epoch}): lower the learning rate, as in "
                "--set training.learning_rate=0.0005; the checkpoint before it is kept."
            )
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        if state.average:
            state.average.update(state.network)
        return value, int((outputs[0][1].argmax(dim=1) == labels).sum())

    def _validate(self, state: State, figures: dict[str, float]) -> None:
        """Judge the averaged weights on the validation rows, and keep them if they are as good as the best.

        As good is: within one standard error of it (Breiman et al. 1984, "Classification and regression trees",
        section 3.4.3). On few validation pictures the highest figure is mostly luck, and the later epoch, at a lower
        learning rate, is the better guess.
        """
        training_weights = {name: value.clone() for name, value in state.network.state_dict().items()}
        state.network.load_state_dict(state.averaged_weights())
        score, judged = self.judge(state.network)
        if score[0] > state.best_score[0]:
            state.best_score, state.best_epoch = score, state.epoch
        if score[0] >= state.best_score[0] - state.best_score[1]:
            state.kept_epoch = state.epoch
            state.best = {name: value.clone() for name, value in state.network.state_dict().items()}
        state.network.load_state_dict(training_weights)
        state.history.append({"epoch": state.epoch, "step": state.step, **figures, **judged})

    def judge(self, network: Network) -> tuple[Score, dict[str, float]]:
        """Return the monitored figure with its standard error, and all validation figures."""
        probabilities = softmax(logits(network, self.preprocess, self.validation.pixels))
        labels = self.validation.labels
        predicted = probabilities.argmax(axis=1)
        f1 = precision_recall_f1(confusion_matrix(predicted, labels, self.num_classes))[2]
        right, losses = predicted == labels, row_log_loss(probabilities, labels)
        judged = {
            "accuracy": float(right.mean()),
            "macro_f1": float(f1[np.unique(labels)].mean()),
            "log_loss": float(losses.mean()),
        }
        monitor = self.recipe.training.monitor
        value = -judged["log_loss"] if monitor == "log_loss" else judged[monitor]
        # Two right and two wrong are added (Agresti and Coull 1998), or a faultless score would have no error at all.
        share = (right.sum() + 2) / (len(labels) + 4)
        spread = float(losses.std()) if monitor == "log_loss" else math.sqrt(share * (1 - share))
        return (value, spread / math.sqrt(len(labels))), {f"validation_{k}": v for k, v in judged.items()}

    def _save(self, state: State) -> None:
        tensors = with_prefix("network", state.network.state_dict()) | with_prefix("best", state.best)
        tensors |= optimizer_tensors(state.optimizer)
        if state.average:
            tensors |= with_prefix("average", state.average.values)
        document = {
            "identity": self.identity,
            "step": state.step,
            "seconds": state.seconds,
            "head_seconds": state.head_seconds,
            "average_steps": state.average.steps if state.average else 0,
            "best_score": list(state.best_score),
            "best_epoch": state.best_epoch,
            "kept_epoch": state.kept_epoch,
            "history": state.history,
        }
        save_checkpoint(self.checkpoints, state.epoch, tensors, document)

    def _share_done(self, state: State, share_of_epoch: float, elapsed: float) -> float:
        if self.recipe.training.budget is not None:
            whole = max(1.0, self.recipe.training.budget - state.head_seconds)
            return (state.seconds - state.head_seconds + elapsed) / whole
        return (state.epoch - 1 + share_of_epoch) / (self.recipe.training.epochs or 1)

    def _of_epochs(self) -> str:
        return "" if self.recipe.training.budget is not None else f"/{self.recipe.training.epochs}"

    def _seconds_left(self, state: State) -> float:
        if self.recipe.training.budget is not None:
            return max(0.0, self.recipe.training.budget - state.seconds)
        return (state.seconds - state.head_seconds) / state.epoch * ((self.recipe.training.epochs or 0) - state.epoch)


def _freeze_norms(network: Network) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def _restore(state: State, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
    state.network.load_state_dict(take_prefix("network", tensors))
    restore_optimizer(state.optimizer, tensors)
    device = next(state.network.parameters()).device
    state.best = {name: value.to(device) for name, value in take_prefix("best", tensors).items()}
    if state.average:
        for name, value in take_prefix("average", tensors).items():
            state.average.values[name].copy_(value)
        state.average.steps = document["average_steps"]
    state.epoch, state.step = document["epoch"], document["step"]
    state.seconds, state.head_seconds = document["seconds"], document["head_seconds"]
    state.best_score, state.best_epoch = tuple(document["best_score"]), document["best_epoch"]
    state.kept_epoch = document["kept_epoch"]
    state.history = document["history"]


def _line(state: State, of_epochs: str, left: float) -> str:
    last = state.history[-1]
    return (
        f"Epoch {state.epoch}{of_epochs}  loss {last['loss']:.3f}  "
        f"validation accuracy {last['validation_accuracy']:.1%}  "
        f"{last['pictures_per_second']:,.0f} pictures/s  {int(left) // 60}:{int(left) % 60:02d} left"
    )

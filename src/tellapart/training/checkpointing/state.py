"""The state of training: everything that changes, all of which is saved in a checkpoint and restored from it."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tellapart.models.base import Network
from tellapart.training.checkpointing.files import TensorGroups
from tellapart.training.checkpointing.store import optimizer_tensors, restore_optimizer
from tellapart.training.ema import WeightAverage

History = list[dict[str, Any]]
Score = tuple[float, float]  # the monitored metric, higher is better, and its standard error
_SAVED = (
    "epoch",
    "batch",
    "step",
    "probe_seconds",
    "sums",
    "best_epoch",
    "selected_epoch",
    "last_epoch",
    "history",
    "finished_early",
)


@dataclass
class State:
    """The network and the progress of its training.

    forward: the network's training outputs, wrapped for the ranks and compiled. epoch: the current epoch, from 1;
    batch: its completed batches; sums: over them, loss, correct predictions and images. step: updates of the weights.
    epoch_start: seconds of training before this epoch. probe_seconds: duration of the linear probe. best_epoch: the
    epoch with the best score. selected_epoch: the epoch whose weights are `best`. last_epoch: the epoch that training
    ends after, once it has stopped improving. finished_early: whether the user ended training before its last epoch.
    """

    network: Network
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    forward: nn.Module
    epoch: int = 1
    batch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    epoch_start: float = 0.0
    probe_seconds: float = 0.0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_score: Score = (-math.inf, 0.0)
    best_epoch: int = 0
    selected_epoch: int = 0
    last_epoch: int | None = None
    history: History = field(default_factory=list)
    finished_early: bool = False
    _origin: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """The duration of training so far, over all interruptions."""
        return time.monotonic() - self._origin

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._origin = time.monotonic() - value

    def averaged_weights(self) -> dict[str, Tensor]:
        """Return the weights to validate and select: the moving average if there is one."""
        return self.average.values if self.average else self.network.state_dict()

    def select_weights(self) -> None:
        """Copy the current weights of the network to `best`."""
        self.best = {name: value.clone() for name, value in self.network.state_dict().items()}

    def start_next_epoch(self) -> None:
        """Reset the counters of the epoch."""
        self.epoch, self.batch, self.sums, self.epoch_start = self.epoch + 1, 0, [0.0, 0.0, 0.0], self.seconds

    def tensors(self) -> TensorGroups:
        """Return the tensors for a checkpoint, not copied."""
        groups = {
            "network": self.network.state_dict(),
            "best": self.best,
            "optimizer": optimizer_tensors(self.optimizer),
        }
        return groups | ({"average": self.average.values} if self.average else {})

    def document(self) -> dict[str, Any]:
        """Return everything else for a checkpoint, as JSON."""
        seconds = self.seconds
        return {name: getattr(self, name) for name in _SAVED} | {
            "seconds": seconds,
            "epoch_seconds": seconds - self.epoch_start,
            "average_steps": self.average.steps if self.average else 0,
            "best_score": list(self.best_score) if math.isfinite(self.best_score[0]) else None,
        }

    def restore(self, tensors: TensorGroups, document: dict[str, Any]) -> None:
        """Restore the state that `tensors` and `document` were taken from."""
        self.network.load_state_dict(tensors["network"])
        restore_optimizer(self.optimizer, tensors["optimizer"])
        device = next(self.network.parameters()).device
        self.best = {name: value.to(device) for name, value in tensors["best"].items()}
        if self.average:
            for name, value in tensors["average"].items():
                self.average.values[name].copy_(value)
            self.average.steps = document["average_steps"]
        for name in _SAVED:
            setattr(self, name, document[name])
        self.seconds = document["seconds"]
        self.epoch_start = document["seconds"] - document["epoch_seconds"]
        if document["best_score"] is not None:
            self.best_score = tuple(document["best_score"])

"""What changes while a network is trained: all of it is in a checkpoint, and comes back from one."""

import math
import time
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from tellapart.models.base import Network
from tellapart.training.checkpointing.store import Parts, optimizer_tensors, restore_optimizer
from tellapart.training.ema import WeightAverage

History = list[dict[str, Any]]
Score = tuple[float, float]  # the monitored figure, higher is better, and its standard error
_WRITTEN = ("epoch", "batch", "step", "head_seconds", "sums", "best_epoch", "kept_epoch", "history")


@dataclass
class State:
    """The network and how far its training is.

    epoch, batch: the epoch under way, from 1, and how many batches of it are done. step: updates of the weights.
    sums: of the epoch so far: loss, right answers, pictures. epoch_began: seconds of training before this epoch.
    head_seconds: what the head alone took. best_epoch: with the best score; kept_epoch: whose weights are `best`.
    """

    network: Network
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    forward: nn.Module  # the network's training outputs, as wrapped for the ranks and the machine
    tally: nn.Parameter  # of three: its gradient is the batch's sums, so that ranks exchange them with the others
    epoch: int = 1
    batch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    epoch_began: float = 0.0
    head_seconds: float = 0.0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_score: Score = (-math.inf, 0.0)
    best_epoch: int = 0
    kept_epoch: int = 0
    history: History = field(default_factory=list)
    _origin: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long training has taken, all its parts together."""
        return time.monotonic() - self._origin

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._origin = time.monotonic() - value

    def tallied(self, ranks: int) -> list[float]:
        """Return the sums of the last batch, over all ranks: loss, right answers, pictures."""
        loss, hits, pictures = (value * ranks for value in cast(Tensor, self.tally.grad).tolist())
        return [loss, round(hits), round(pictures)]  # the mean over ranks has rounding, counts have none

    def averaged_weights(self) -> dict[str, Tensor]:
        """Return the weights to judge and keep: the average where there is one."""
        return self.average.values if self.average else self.network.state_dict()

    def keep_weights(self) -> None:
        """Take a copy of the network's present weights as the best."""
        self.best = {name: value.clone() for name, value in self.network.state_dict().items()}

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch, self.batch, self.sums, self.epoch_began = self.epoch + 1, 0, [0.0, 0.0, 0.0], self.seconds

    def parts(self) -> Parts:
        """Return the tensors for a checkpoint, not copied."""
        parts = {
            "network": self.network.state_dict(),
            "best": self.best,
            "optimizer": optimizer_tensors(self.optimizer),
        }
        return parts | ({"average": self.average.values} if self.average else {})

    def document(self) -> dict[str, Any]:
        """Return the rest for a checkpoint, as JSON."""
        seconds = self.seconds
        return {name: getattr(self, name) for name in _WRITTEN} | {
            "seconds": seconds,
            "epoch_seconds": seconds - self.epoch_began,
            "average_steps": self.average.steps if self.average else 0,
            "best_score": list(self.best_score) if math.isfinite(self.best_score[0]) else None,
        }

    def restore(self, parts: Parts, document: dict[str, Any]) -> None:
        """Become the state that `parts` and `document` were taken from."""
        self.network.load_state_dict(parts["network"])
        restore_optimizer(self.optimizer, parts["optimizer"])
        device = next(self.network.parameters()).device
        self.best = {name: value.to(device) for name, value in parts["best"].items()}
        if self.average:
            for name, value in parts["average"].items():
                self.average.values[name].copy_(value)
            self.average.steps = document["average_steps"]
        for name in _WRITTEN:
            setattr(self, name, document[name])
        self.seconds = document["seconds"]
        self.epoch_began = document["seconds"] - document["epoch_seconds"]
        if document["best_score"] is not None:
            self.best_score = tuple(document["best_score"])

"""Fine-tuning's first phase: the head alone, on the features of frozen layers."""

import math
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tellapart.augment import augment
from tellapart.data.batching import pixel_batches
from tellapart.models.base import Network
from tellapart.progress import Advance, Event
from tellapart.recipe import TrainingRecipe
from tellapart.training.adamw import AdamW
from tellapart.training.class_balance import class_weights, epoch_order
from tellapart.training.execution.seeding import seed_draws
from tellapart.training.losses import Loss
from tellapart.training.trainer import Trainer

_HEAD_RATE = 1e-2
_HEAD_BATCH = 256
_EMBED_BATCH = 64
_HEAD_STEPS = 200  # at least, however few the pictures
_HEAD_PICTURES = 20_000  # at most, changed copies included


def fit_head(trainer: Trainer, network: Network) -> None:
    """Fit the head alone, on the frozen features of the training pictures and of changed copies of them.

    The features cost their price once, so this gives a good classifier in seconds (Kornblith et al. 2019, "Do better
    ImageNet models transfer better?", section 3), and a first one, which the user is told of, from the pictures as they
    are. Weights and statistics of the backbone stay as they are.
    """
    began, count = time.monotonic(), len(trainer.train.rows)
    views = 1 + max(0, min(trainer.recipe.training.head_views, _HEAD_PICTURES // count - 1))
    found: list[NDArray[np.float32]] = []
    network.eval().to(memory_format=trainer.plan.memory_format)  # type: ignore[call-overload]
    with trainer.progress.bar("Features for the head", views * count) as advance:
        for view in range(views):
            found.append(trainer.ranks.rows(partial(_embed, trainer, network, view, advance), count))
            if view == 0 and views > 1:
                _fit(trainer, network, np.stack(found), _HEAD_STEPS)
                accuracy = trainer.judge(network)[1]["validation_accuracy"]
                seconds = time.monotonic() - began
                trainer.progress.report(
                    Event.LINEAR_PROBE_END,
                    f"First model after {seconds:.1f} s: validation accuracy {accuracy:.1%}.",
                    seconds=seconds,
                    accuracy=accuracy,
                )
    batches = math.ceil(views * count / _HEAD_BATCH)
    _fit(trainer, network, np.stack(found), trainer.recipe.training.head_epochs * batches)


def _fit(trainer: Trainer, network: Network, embedded: NDArray[np.float32], steps: int) -> None:
    """Go on fitting the head for so many steps, on features (V, n, F) of V copies of each picture."""
    recipe, device = trainer.recipe.training, next(network.parameters()).device
    views, pictures, width = embedded.shape
    inputs = torch.from_numpy(embedded).to(device).reshape(views * pictures, width)
    labels = np.tile(trainer.train.labels, views)  # V * n
    targets = torch.from_numpy(labels).to(device)
    loss_of = Loss(recipe, class_weights(recipe, labels, trainer.num_classes))
    optimizer = AdamW([{"params": network.head.parameters(), "lr": _HEAD_RATE, "weight_decay": 0.01}])
    steps = max(_HEAD_STEPS, steps)
    network.head.train()
    seed_draws(trainer.recipe.seed << 20, device)
    for step, places in enumerate(_endless_batches(recipe, labels, trainer.recipe.seed, steps)):
        for group in optimizer.param_groups:
            group["lr"] = _HEAD_RATE * (1 - step / steps)
        loss = loss_of.row_losses(network.head(inputs[places]), targets[places]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.head.eval()


@torch.no_grad()
def _embed(
    trainer: Trainer, network: Network, view: int, advance: Advance, places: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the features (n, F) of the training pictures at some places, changed in the way that `view` numbers."""
    recipe, preprocess, rows = trainer.recipe, trainer.preprocess, trainer.train.rows
    device, found = next(network.parameters()).device, []
    batches = np.array_split(places, math.ceil(len(places) / _EMBED_BATCH))
    for block, pixels in pixel_batches(trainer.train.pixels, batches):
        images = preprocess.scale(torch.from_numpy(pixels).to(device))
        if view:
            images = augment(images, recipe.augment, recipe.seed, view, rows[block])
        images = preprocess.normalise(images).to(memory_format=trainer.plan.memory_format)
        with torch.autocast(device.type, torch.bfloat16, enabled=trainer.plan.bfloat16):
            found.append(network.embed(images).float().cpu())
        advance(len(block), "")
    return torch.cat(found).numpy()


def _endless_batches(recipe: TrainingRecipe, labels: NDArray[np.int64], seed: int, steps: int) -> Iterator[Tensor]:
    """Yield `steps` batches of places among labels (n,), each epoch's in the order that the recipe asks for."""
    epoch = 0
    while steps > 0:
        order = torch.from_numpy(epoch_order(recipe, seed, epoch, labels))
        for places in torch.split(order, _HEAD_BATCH)[:steps]:
            yield places
            steps -= 1
        epoch += 1

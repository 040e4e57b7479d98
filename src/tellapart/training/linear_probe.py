"""The first phase of fine-tuning: training the head alone, on the features of frozen layers (linear probing)."""

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
from tellapart.models.norm_folding import folded_norms
from tellapart.progress import Advance, Event
from tellapart.recipe.sections import LossRecipe
from tellapart.training.adamw import AdamW
from tellapart.training.class_balance import class_weights, epoch_order
from tellapart.training.execution.seeding import seed_torch
from tellapart.training.losses import Loss
from tellapart.training.time_budget import TimeBudget
from tellapart.training.trainer import Trainer
from tellapart.training.validation import Metrics

_LEARNING_RATE = 1e-2
_BATCH_SIZE = 256
_EMBEDDING_BATCH_SIZE = 64
_MIN_STEPS = 200  # for any number of images
_MAX_IMAGES = 20_000  # including augmented copies
_MAX_TIME_SHARE = 0.3  # of the time left, for augmented copies


def fit_linear_probe(trainer: Trainer, network: Network) -> Metrics:
    """Train the head alone, on the frozen features of the training images and of augmented copies of them.

    The features are computed once, so this gives a good classifier in seconds (Kornblith et al. 2019, "Do better
    ImageNet models transfer better?", section 3). A first classifier, from the images without augmentation, is
    validated and reported. Weights and statistics of the backbone do not change. Return the loss and the accuracy on
    the images without augmentation, and the duration in seconds.
    """
    start, count = time.monotonic(), len(trainer.train.rows)
    views = 1 + max(0, min(trainer.recipe.fine_tuning.linear_probe_views or 0, _MAX_IMAGES // count - 1))
    features: list[NDArray[np.float32]] = []
    network.eval().to(memory_format=trainer.plan.memory_format)  # type: ignore[call-overload]
    with trainer.progress.bar("Computing features", count) as advance:
        features.append(trainer.ranks.gather_rows(partial(_embed, trainer, network, 0, advance), count))
    if views > 1:
        seconds = time.monotonic() - start
        _fit_head(trainer, network, np.stack(features), _MIN_STEPS)
        _report_first_classifier(trainer, network, start)
        views = trainer.ranks.broadcast(partial(_affordable_views, trainer.budget, views, seconds))
    with trainer.progress.bar("Computing features of augmented copies", (views - 1) * count) as advance:
        for view in range(1, views):
            features.append(trainer.ranks.gather_rows(partial(_embed, trainer, network, view, advance), count))
    batches = math.ceil(views * count / _BATCH_SIZE)
    _fit_head(trainer, network, np.stack(features), trainer.recipe.fine_tuning.linear_probe_epochs * batches)
    seconds = time.monotonic() - start
    rate = {"images_per_second": views * count / seconds, "seconds": round(seconds, 3)}
    return _training_metrics(trainer, network, features[0]) | rate


@torch.no_grad()
def _training_metrics(trainer: Trainer, network: Network, features: NDArray[np.float32]) -> Metrics:
    """Return the loss and the accuracy of the head on features (n, F) of the training images."""
    device = next(network.parameters()).device
    labels = torch.from_numpy(trainer.train.labels).to(device)
    logits = network.head(torch.from_numpy(features).to(device))
    weights = class_weights(trainer.recipe.loss, trainer.train.labels, trainer.num_classes)
    loss = Loss(trainer.recipe, weights).row_losses(logits, labels).mean()
    return {"loss": float(loss), "train_accuracy": float((logits.argmax(dim=1) == labels).float().mean())}


def _affordable_views(budget: TimeBudget | None, views: int, seconds: float) -> int:
    """Return how many views to compute within a share of the time limit; seconds: duration of the first."""
    if budget is None:
        return views
    return 1 + min(views - 1, max(0, int(_MAX_TIME_SHARE * budget.left_for_training(seconds) / seconds)))


def _report_first_classifier(trainer: Trainer, network: Network, start: float) -> None:
    with trainer.measured_validation():
        accuracy = trainer.validator.validate(network)[1]["validation_accuracy"]
    seconds = time.monotonic() - start
    message = f"First classifier after {seconds:.1f} s: validation accuracy {accuracy:.1%}."
    trainer.progress.report(Event.LINEAR_PROBE_END, message, seconds=seconds, accuracy=accuracy)


def _fit_head(trainer: Trainer, network: Network, features: NDArray[np.float32], steps: int) -> None:
    """Continue training the head for some steps, on features (V, n, F) of V views of each image."""
    recipe, device = trainer.recipe, next(network.parameters()).device
    views, images, width = features.shape
    inputs = torch.from_numpy(features).to(device).reshape(views * images, width)
    labels = np.tile(trainer.train.labels, views)  # V * n
    targets = torch.from_numpy(labels).to(device)
    loss = Loss(recipe, class_weights(recipe.loss, labels, trainer.num_classes))
    optimizer = AdamW([{"params": network.head.parameters(), "lr": _LEARNING_RATE, "weight_decay": 0.01}])
    steps = max(_MIN_STEPS, steps)
    network.head.train()
    seed_torch(recipe.seed << 20, device)
    for step, indices in enumerate(_batches(recipe.loss, labels, recipe.seed, steps)):
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * (1 - step / steps)
        mean_loss = loss.row_losses(network.head(inputs[indices]), targets[indices]).mean()
        optimizer.zero_grad()
        mean_loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.head.eval()


@torch.no_grad()
def _embed(
    trainer: Trainer, network: Network, view: int, advance: Advance, indices: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the features (n, F) of some training images; view 0 is without augmentation."""
    recipe, preprocess, rows = trainer.recipe, trainer.preprocess, trainer.train.rows
    device, features = next(network.parameters()).device, []
    batches = np.array_split(indices, math.ceil(len(indices) / _EMBEDDING_BATCH_SIZE))
    with folded_norms(network):
        for batch, pixels in pixel_batches(trainer.train.pixels, batches):
            images = preprocess.scale(torch.from_numpy(pixels).to(device))
            if view:
                images = augment(images, recipe.augment, recipe.seed, view, rows[batch])
            images = preprocess.normalize(images).to(memory_format=trainer.plan.memory_format)
            with torch.autocast(device.type, torch.bfloat16, enabled=trainer.plan.bfloat16):
                features.append(network.embed(images).float().cpu())
            advance(len(batch), "")
    return torch.cat(features).numpy()


def _batches(recipe: LossRecipe, labels: NDArray[np.int64], seed: int, steps: int) -> Iterator[Tensor]:
    """Yield `steps` batches of indices into labels (n,), each epoch in the order that the recipe requires."""
    epoch = 0
    while steps > 0:
        order = torch.from_numpy(epoch_order(recipe, seed, epoch, labels))
        for indices in torch.split(order, _BATCH_SIZE)[:steps]:
            yield indices
            steps -= 1
        epoch += 1

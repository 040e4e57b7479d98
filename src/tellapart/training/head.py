"""Fine-tuning's first phase: the head alone, on the features of frozen layers."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tellapart.augment import augment
from tellapart.data.loader import blocks, pixel_batches
from tellapart.models.network import Network
from tellapart.randomness import shuffled
from tellapart.training.fit import Trainer

_HEAD_RATE = 1e-2
_HEAD_BATCH = 256
_HEAD_STEPS = 200  # at least, however few the pictures
_HEAD_PICTURES = 20_000  # at most, changed copies included


def fit_head(trainer: Trainer, network: Network) -> None:
    """Fit the head alone, on the frozen features of the training pictures and of changed copies of them.

    The features cost their price once, so this gives a good classifier in seconds (Kornblith et al. 2019, "Do better
    ImageNet models transfer better?", section 3). Weights and statistics of the backbone stay as they are.
    """
    recipe = trainer.recipe.training
    embedded = _embed_views(trainer, network)  # V n F
    views, pictures, width = embedded.shape
    inputs = embedded.reshape(views * pictures, width)
    targets = torch.from_numpy(trainer.train.labels).to(inputs.device).repeat(views)
    optimizer = torch.optim.AdamW(network.head.parameters(), lr=_HEAD_RATE, weight_decay=0.01)
    steps = max(_HEAD_STEPS, recipe.head_epochs * math.ceil(len(inputs) / _HEAD_BATCH))
    network.head.train()
    torch.manual_seed(trainer.recipe.seed << 20)
    for step, places in enumerate(_endless_batches(len(inputs), trainer.recipe.seed, steps)):
        for group in optimizer.param_groups:
            group["lr"] = _HEAD_RATE * (1 - step / steps)
        loss = F.cross_entropy(network.head(inputs[places]), targets[places], label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _embed_views(trainer: Trainer, network: Network) -> Tensor:
    """Return the features (V, n, F) of the training pictures, first as they are, then changed in V - 1 ways."""
    recipe, train = trainer.recipe, trainer.train
    views = 1 + max(0, min(recipe.training.head_views, _HEAD_PICTURES // len(train.rows) - 1))
    device = next(network.parameters()).device
    network.eval()
    found = []
    with trainer.progress.bar("Features for the head", views * len(train.rows)) as advance, torch.no_grad():
        for view in range(views):
            for block, pixels in pixel_batches(train.pixels, blocks(len(train.rows), _HEAD_BATCH // 4)):
                images = trainer.preprocess.scale(torch.from_numpy(pixels).to(device))
                if view:
                    images = augment(images, recipe.augment, recipe.seed, view, train.rows[block])
                images = trainer.preprocess.normalise(images).to(memory_format=torch.channels_last)
                found.append(network.embed(images))
                advance(len(images), "")
    return torch.cat(found).reshape(views, len(train.rows), -1)


def _endless_batches(count: int, seed: int, steps: int) -> Iterator[Tensor]:
    """Yield `steps` batches of places among `count`, shuffled anew each time all were used."""
    epoch = 0
    while steps > 0:
        order = torch.from_numpy(shuffled(seed, epoch, np.arange(count)))
        for places in torch.split(order, _HEAD_BATCH)[:steps]:
            yield places
            steps -= 1
        epoch += 1

"""The one inference loop: every probability, of validation, test, command line and report, comes through it."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tellapart.data.batching import BATCH, PixelTable, blocks, pixel_batches
from tellapart.models.base import Network, last_linear
from tellapart.preprocess.torch_resize import Preprocess


def default_device() -> torch.device:
    """Return the GPU if there is one, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def logits(network: Network, preprocess: Preprocess, pixels: PixelTable) -> NDArray[np.float32]:
    """Return the logits (N, K), in float32, of resized pictures (N, S, S, 3), with the network in evaluation mode."""
    return _outputs(network, network, preprocess, pixels)


def features_and_logits(
    network: Network, preprocess: Preprocess, pixels: PixelTable
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the features before the head (N, F) and the logits (N, K), in float32, in evaluation mode."""

    def both(images: Tensor) -> Tensor:
        network.check(images)
        found = network.embed(images)
        return torch.cat([network.head(found).float(), found.float()], dim=1)

    classes = last_linear(network.head).out_features
    found = _outputs(both, network, preprocess, pixels)
    return found[:, classes:], found[:, :classes]


@torch.inference_mode()
def _outputs(
    compute: Callable[[Tensor], Tensor], network: Network, preprocess: Preprocess, pixels: PixelTable
) -> NDArray[np.float32]:
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    try:
        outputs: list[Tensor] = []
        for _, batch in pixel_batches(pixels, blocks(len(pixels), BATCH)):
            images = preprocess(torch.from_numpy(batch).to(device))  # n C S S
            outputs.append(compute(images).float().cpu())
        return torch.cat(outputs).numpy()
    finally:
        network.train(was_training)

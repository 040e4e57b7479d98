"""The inference loop of torch networks. Validation, test, reports and the command line all use it.

Letters: N images, S the network's input size, F features, K classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tellapart.data.batching import BATCH_SIZE, PixelArray, batch_slices, pixel_batches
from tellapart.models.base import Network, last_linear
from tellapart.models.norm_folding import folded_norms
from tellapart.preprocess.torch_preprocess import Preprocess


def default_device() -> torch.device:
    """Return the GPU (CUDA or MPS) if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def logits(network: Network, preprocess: Preprocess, pixels: PixelArray) -> NDArray[np.float32]:
    """Return the float32 logits (N, K) of resized images (N, S, S, 3), with the network in evaluation mode."""
    return _run_batches(network, network, preprocess, pixels)


def features_and_logits(
    network: Network, preprocess: Preprocess, pixels: PixelArray
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the float32 features before the head (N, F) and the logits (N, K), in evaluation mode."""

    def compute(images: Tensor) -> Tensor:
        network.check_shape(images)
        features = network.embed(images)
        return torch.cat([network.head(features).float(), features.float()], dim=1)

    num_classes = last_linear(network.head).out_features
    outputs = _run_batches(compute, network, preprocess, pixels)
    return outputs[:, num_classes:], outputs[:, :num_classes]


@torch.inference_mode()
def _run_batches(
    compute: Callable[[Tensor], Tensor], network: Network, preprocess: Preprocess, pixels: PixelArray
) -> NDArray[np.float32]:
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    try:
        outputs: list[Tensor] = []
        with folded_norms(network):
            for _, batch in pixel_batches(pixels, batch_slices(len(pixels), BATCH_SIZE)):
                images = preprocess(torch.from_numpy(batch).to(device))  # n C S S
                outputs.append(compute(images).float().cpu())
        return torch.cat(outputs).numpy()
    finally:
        network.train(was_training)

"""The one inference loop: every probability, of validation, test, command line and report, comes through it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tellapart.models.network import Network
from tellapart.preprocess import Preprocess

BATCH = 64


def default_device() -> torch.device:
    """Return the GPU if there is one, else the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@torch.inference_mode()
def logits(network: Network, preprocess: Preprocess, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the logits (N, K), in float32, of resized pictures (N, S, S, 3), with the network in evaluation mode."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    try:
        outputs: list[Tensor] = []
        for start in range(0, len(pixels), BATCH):
            batch = torch.from_numpy(np.array(pixels[start : start + BATCH])).to(device)  # n S S 3
            outputs.append(network(preprocess(batch)).float().cpu())
        return torch.cat(outputs).numpy()
    finally:
        network.train(was_training)


def softmax(values: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """Return probabilities (N, K) from logits (N, K) divided by the temperature."""
    scaled = values.astype(np.float64) / temperature
    exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: NDArray[np.float32] = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
    return result

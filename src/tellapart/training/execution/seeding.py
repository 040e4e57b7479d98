"""Seeds for operations that draw from PyTorch's own generators, such as dropout."""

import torch


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of this device.

    `torch.manual_seed` also records a stack trace for each kind of device that is not initialized. This takes a
    millisecond per step, and memory that is never freed.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)

"""Seeds for what draws from torch's own generators, such as dropout."""

import torch


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the generators of the processor and of this device.

    `torch.manual_seed` also notes down a stack trace for every kind of device that has not started: a millisecond a
    step, and memory that is never freed.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)

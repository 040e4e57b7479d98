"""Learning rates over the course of training."""

import math

import torch

_WARM_UP = 0.25  # share of a one-cycle schedule that rises
_COSINE_WARM_UP = 0.05
_START = 0.04  # the first rate, as a share of the peak


def set_rate(optimizer: torch.optim.Optimizer, schedule: str, progress: float) -> None:
    """Set each group's learning rate for the share 0..1 of training that is done."""
    factor = rate_factor(schedule, progress)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def rate_factor(schedule: str, progress: float) -> float:
    """Return the rate as a share of its peak.

    one-cycle: Smith and Topin 2018, "Super-convergence". cosine: Loshchilov and Hutter 2017, "SGDR", one period.
    """
    progress = min(1.0, max(0.0, progress))
    warm_up = _WARM_UP if schedule == "one-cycle" else _COSINE_WARM_UP
    if progress < warm_up:
        rise = progress / warm_up
        if schedule == "one-cycle":
            rise = (1 - math.cos(math.pi * rise)) / 2
        return _START + (1 - _START) * rise
    fall = (progress - warm_up) / (1 - warm_up)
    return max(1e-4, (1 + math.cos(math.pi * fall)) / 2)

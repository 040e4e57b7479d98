"""Learning rate schedules."""

import math

import torch

_ONE_CYCLE_WARM_UP, _COSINE_WARM_UP = 0.25, 0.05  # fractions of training
_INITIAL_FACTOR, _FINAL_FACTOR = 0.04, 1e-4  # relative to the peak


def set_learning_rate(optimizer: torch.optim.Optimizer, schedule: str, fraction: float) -> None:
    """Set the learning rate of each parameter group after a fraction 0..1 of training."""
    factor = learning_rate_factor(schedule, fraction)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def learning_rate_factor(schedule: str, fraction: float) -> float:
    """Return the learning rate relative to its peak.

    one_cycle: Smith and Topin 2018, "Super-convergence". cosine: Loshchilov and Hutter 2017, "SGDR", one period.
    """
    fraction = min(1.0, max(0.0, fraction))
    warm_up = _ONE_CYCLE_WARM_UP if schedule == "one_cycle" else _COSINE_WARM_UP
    if fraction < warm_up:
        rise = fraction / warm_up
        if schedule == "one_cycle":
            rise = (1 - math.cos(math.pi * rise)) / 2
        return _INITIAL_FACTOR + (1 - _INITIAL_FACTOR) * rise
    fall = (fraction - warm_up) / (1 - warm_up)
    return max(_FINAL_FACTOR, (1 + math.cos(math.pi * fall)) / 2)

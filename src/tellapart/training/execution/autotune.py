"""The fastest execution plan on a GPU, by timing training steps.

On a CPU nothing is timed: the time of a step depends on what else the machine computes, and the default plan was the
fastest for every network that was measured (`benchmarks/overhead.py`).
"""

import copy
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tellapart.io.json_cache import cache_path, load_cached_json, save_cached_json
from tellapart.models.base import Network
from tellapart.recipe.sections import ExecutionRecipe
from tellapart.training.execution.plan import ExecutionPlan, has_bfloat16, use_threads

_SECONDS = 0.25  # of timing per plan, after one warm-up step
_SLOW_STEP = 3.0  # seconds per step above which no other plan is timed
_MIN_GAIN = 0.97  # maximum time of a step relative to the best plan so far


def find_fastest_plan(
    network: Network, size: int, batch: int, default: ExecutionPlan, settings: ExecutionRecipe
) -> ExecutionPlan:
    """Return the fastest plan for training steps of this network on `batch` images of side `size`.

    network: in training mode, with its frozen layers frozen. default: selected unless another plan is clearly faster.
    settings: those that are not open are not changed. The plan is cached for the machine and the network.
    """
    path = _cache_path(network, size, batch, default, settings)
    try:
        return ExecutionPlan(**load_cached_json(path))
    except TypeError:  # no cached plan, or one of another release
        pass
    images = torch.rand(batch, network.in_channels, size, size, device=next(network.parameters()).device)
    best, best_time = default, time_plan(network, images, default)
    if best_time < _SLOW_STEP:
        for change in _changes(default, settings):
            plan = replace(best, **change)
            seconds = time_plan(network, images, plan)
            if seconds < best_time * _MIN_GAIN:
                best, best_time = plan, seconds
    save_cached_json(path, asdict(best))
    return best


def _changes(default: ExecutionPlan, settings: ExecutionRecipe) -> Iterator[dict[str, Any]]:
    """Yield the changes to time, each on top of the best plan so far."""
    if settings.precision == "auto" and has_bfloat16():
        yield {"bfloat16": not default.bfloat16}
    if settings.channels_last is None:
        yield {"channels_last": not default.channels_last}
    if settings.compile_mode is None:
        yield {"compile_mode": "default"}
        yield {"compile_mode": "reduce-overhead"}  # one launch per step, by CUDA graphs


def time_plan(network: Network, images: Tensor, plan: ExecutionPlan) -> float:
    """Return the median seconds of a training step of a copy of the network on images (N, C, S, S)."""
    with use_threads(plan.threads):
        try:
            return _time_steps(network, images, plan)
        except RuntimeError:
            if plan.compile_mode == "none":
                raise
            return math.inf  # the compiler is not installed, or does not support the network


def _time_steps(network: Network, images: Tensor, plan: ExecutionPlan) -> float:
    copied = copy.deepcopy(network).to(memory_format=plan.memory_format)  # type: ignore[call-overload]
    images = images.to(memory_format=plan.memory_format)
    forward = copied.training_outputs
    if plan.compile_mode != "none":
        forward = torch.compile(forward, mode=plan.compile_mode)
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds[1:]) < _SECONDS and len(seconds) < 50):
        start = time.perf_counter()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=plan.bfloat16):
            outputs = forward(images)
        loss = torch.stack([weight * F.cross_entropy(logits.float(), labels) for weight, logits in outputs]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        float(loss.detach())
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        if seconds[0] > _SLOW_STEP:
            return seconds[0]
    return statistics.median(seconds[1:])


def _cache_path(network: Network, size: int, batch: int, default: ExecutionPlan, settings: ExecutionRecipe) -> Path:
    """Return the cache file for this GPU, release of PyTorch, network and shape of the batch."""
    shapes = [(*parameter.shape, parameter.requires_grad) for parameter in network.parameters()]
    modes = [module.training for module in network.modules()]
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    open_settings = [settings.precision, settings.channels_last, settings.compile_mode]
    key = [[accelerator, torch.__version__, repr(network), shapes, modes, size, batch], asdict(default), open_settings]
    return cache_path("plans", json.dumps(key).encode())

"""The fastest way to compute a training step on this machine: precision, memory layout, threads, compilation.

The plans are timed. The choice changes results only by rounding. It is cached for the machine and the network, and
saved in each checkpoint, so that a resumed run computes as before.
"""

import copy
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tellapart.io.json_cache import cache_path, load_cached_json, save_cached_json
from tellapart.models.base import Network
from tellapart.system import cpu_name

_SECONDS = 0.25  # of timing per plan, after one warm-up step
_SLOW_STEP = 3.0  # seconds per step above which no other plan is timed
_MIN_GAIN = 0.97  # maximum time of a step relative to the best plan so far
_FEWER_GAIN, _MORE_GAIN = 0.6, 0.8  # the same for fewer and for more threads than in a cached plan


@dataclass(frozen=True)
class ExecutionPlan:
    """How steps are computed. threads: number of CPU threads. compiled: the mode of `torch.compile`, "" for none."""

    bfloat16: bool = False
    channels_last: bool = True
    threads: int = 1
    compiled: str = ""

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory layout of images and filters."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def precision(self) -> str:
        """The precision, as in `execution.precision`."""
        return "bfloat16" if self.bfloat16 else "float32"

    def __str__(self) -> str:
        words = [self.precision]
        words += [] if self.channels_last else ["channels first"]
        words += [f"compiled ({self.compiled})"] if self.compiled else []
        return ", ".join([*words, f"{self.threads} thread{'s' * (self.threads != 1)}"])


def default_plan(precision: str, fast_bfloat16: bool) -> ExecutionPlan:
    """Return the plan to use without timing.

    precision: as in the recipe. fast_bfloat16: the network is known to train faster in bfloat16, for `auto`.
    """
    bfloat16 = precision == "bfloat16" or (precision == "auto" and fast_bfloat16 and has_bfloat16())
    return ExecutionPlan(bfloat16, threads=torch.get_num_threads())


def find_fastest_plan(network: Network, size: int, batch: int, default: ExecutionPlan, precision: str) -> ExecutionPlan:
    """Return the fastest plan for training steps of this network on `batch` images of side `size`.

    network: in training mode, with its frozen layers frozen. default: selected unless another plan is clearly faster.
    precision: as in the recipe; `auto` also times the other precision.
    """
    path = _cache_path(network, size, batch, default, precision)
    device = next(network.parameters()).device
    images = torch.rand(batch, network.in_channels, size, size, device=device)
    try:
        return _adapt_threads(network, images, plan_from_json(load_cached_json(path)), default.threads)
    except TypeError:  # no cached plan, or one of another release
        pass
    best, best_time = default, _time_plan(network, images, default)
    if best_time < _SLOW_STEP:
        for change in _changes(default, precision, device):
            plan = replace(best, **change)
            seconds = _time_plan(network, images, plan)
            if seconds < best_time * _MIN_GAIN:
                best, best_time = plan, seconds
    save_cached_json(path, asdict(best))
    return best


def _adapt_threads(network: Network, images: Tensor, plan: ExecutionPlan, available: int) -> ExecutionPlan:
    """Return a cached plan with fewer threads if other programs use the CPU now, or more if they did then.

    The threads wait for each other at every layer. With four programs on two CPU cores, a step with two threads took
    ten times as long as with one.
    """
    if images.device.type != "cpu" or available < 2:
        return plan
    best_time = _time_plan(network, images, plan)
    candidates = [threads for threads in (available, available // 2, available // 4, 1) if 0 < threads != plan.threads]
    for threads in dict.fromkeys(candidates):
        candidate, gain = replace(plan, threads=threads), _MORE_GAIN if threads > plan.threads else _FEWER_GAIN
        if best_time < _SLOW_STEP and (seconds := _time_plan(network, images, candidate)) < best_time * gain:
            plan, best_time = candidate, seconds
    return plan


def has_bfloat16() -> bool:
    """Return whether the device multiplies bfloat16 in hardware; emulated, it would be slower than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.backends.mps.is_available():
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _changes(default: ExecutionPlan, precision: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield the changes to time, each on top of the best plan so far."""
    if precision == "auto" and has_bfloat16():
        yield {"bfloat16": not default.bfloat16}
    yield {"channels_last": not default.channels_last}
    if device.type == "cpu" and default.threads > 1:
        yield {"threads": max(1, default.threads // 2)}  # two hardware threads of a core can slow each other down
    if device.type == "cuda":
        yield {"compiled": "default"}  # on CPUs compilation takes longer than it saves
        yield {"compiled": "reduce-overhead"}  # one launch per step, by CUDA graphs


def _time_plan(network: Network, images: Tensor, plan: ExecutionPlan) -> float:
    """Return the median seconds of a training step of a copy of the network."""
    with use_threads(plan):
        try:
            return _time_steps(network, images, plan)
        except RuntimeError:
            if not plan.compiled:
                raise
            return math.inf  # the compiler is not installed, or does not support the network


def _time_steps(network: Network, images: Tensor, plan: ExecutionPlan) -> float:
    copied = copy.deepcopy(network).to(memory_format=plan.memory_format)  # type: ignore[call-overload]
    images = images.to(memory_format=plan.memory_format)
    forward = copied.training_outputs
    if plan.compiled:
        forward = torch.compile(forward, mode=plan.compiled)
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


@contextmanager
def use_threads(plan: ExecutionPlan) -> Iterator[None]:
    """Compute with the threads of the plan inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cache_path(network: Network, size: int, batch: int, default: ExecutionPlan, precision: str) -> Path:
    """Return the cache file for this machine, release of PyTorch, network and shape of the batch."""
    shapes = [(*parameter.shape, parameter.requires_grad) for parameter in network.parameters()]
    modes = [module.training for module in network.modules()]
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    machine = [cpu_name(), os.cpu_count(), accelerator, torch.__version__]
    key = [[*machine, repr(network), shapes, modes, size, batch], asdict(default), precision]
    return cache_path("plans", json.dumps(key).encode())


def plan_from_json(values: dict[str, Any]) -> ExecutionPlan:
    """Return the plan with the values of its JSON object."""
    return replace(ExecutionPlan(), **values)

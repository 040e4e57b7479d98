"""How this machine computes a step fastest: precision, memory layout, threads, compiled or not; tried, not guessed.

The choice changes results by rounding alone. It is kept for the machine and the network, and in every checkpoint, so
that a resumed run computes as it began.
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

from tellapart.errors import BadRecipe
from tellapart.io.json_cache import place, recall, remember
from tellapart.models.base import Network
from tellapart.system import processor_name

_SECONDS = 0.25  # for the trial of one plan, after the step that warms up
_LONG = 3.0  # seconds of a step from which on nothing else is tried
_BETTER = 0.97  # a plan must take less than this share of the time of the one before it
_FEWER, _MORE = 0.6, 0.8  # or than this, where one is known, for fewer threads than it has, or for more


@dataclass(frozen=True)
class Plan:
    """How steps are computed. threads: of the processor. compiled: the mode of `torch.compile`, or "" for none."""

    bfloat16: bool = False
    channels_last: bool = True
    threads: int = 1
    compiled: str = ""

    @property
    def memory_format(self) -> torch.memory_format:
        """How images and filters lie in memory."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def precision(self) -> str:
        """The precision as a recipe names it."""
        return "bfloat16" if self.bfloat16 else "float32"

    def __str__(self) -> str:
        words = [self.precision]
        words += [] if self.channels_last else ["channels first"]
        words += [f"compiled ({self.compiled})"] if self.compiled else []
        return ", ".join([*words, f"{self.threads} thread{'s' * (self.threads != 1)}"])


def default_plan(precision: str, fast_bfloat16: bool) -> Plan:
    """Return the plan without a trial. precision: as in the recipe; `auto` is bfloat16 where it is known to help."""
    bfloat16 = precision == "bfloat16" or (precision == "auto" and fast_bfloat16 and has_bfloat16())
    return Plan(bfloat16, threads=torch.get_num_threads())


def fastest_plan(network: Network, size: int, batch: int, first: Plan, precision: str) -> Plan:
    """Return the fastest of the plans for training steps of this network on `batch` images of side `size`.

    network: in the mode in which it is trained, frozen where it stays as it is. first: tried first, and kept unless
    another is clearly faster. precision: as in the recipe; `auto` leaves it open.
    """
    path = _kept(network, size, batch, first, precision)
    device = next(network.parameters()).device
    images = torch.rand(batch, network.in_channels, size, size, device=device)
    try:
        return _as_busy_as_it_is(network, images, plan_from(recall(path)), first.threads)
    except TypeError:  # there is none, or it is of another release
        pass
    best, best_time = first, _trial(network, images, first)
    if best_time < _LONG:
        for change in _changes(first, precision, device):
            plan = replace(best, **change)
            taken = _trial(network, images, plan)
            if taken < best_time * _BETTER:
                best, best_time = plan, taken
    remember(path, asdict(best))
    return best


def _as_busy_as_it_is(network: Network, images: Tensor, plan: Plan, threads: int) -> Plan:
    """Return a plan that was found before, with fewer threads if others compute here now, or more if they did then.

    Threads wait for each other at every layer: two of them, on two processors that four programs want, were measured to
    take ten times as long for a step as one.
    """
    if images.device.type != "cpu" or threads < 2:
        return plan
    taken = _trial(network, images, plan)
    others = [count for count in (threads, threads // 2, threads // 4, 1) if count and count != plan.threads]
    for count in dict.fromkeys(others):
        other, share = replace(plan, threads=count), _MORE if count > plan.threads else _FEWER
        if taken < _LONG and (time_of_other := _trial(network, images, other)) < taken * share:
            plan, taken = other, time_of_other
    return plan


def has_bfloat16() -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulated it would be slower than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.backends.mps.is_available():
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _changes(first: Plan, precision: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """Yield the changes worth a trial, one after the other on top of the best so far."""
    if precision == "auto" and has_bfloat16():
        yield {"bfloat16": not first.bfloat16}
    yield {"channels_last": not first.channels_last}
    if device.type == "cpu" and first.threads > 1:
        yield {"threads": max(1, first.threads // 2)}  # two hardware threads of a core may be in each other's way
    if device.type == "cuda":
        yield {"compiled": "default"}  # on processors compiling takes longer than it saves
        yield {"compiled": "reduce-overhead"}  # one launch for the whole step, by CUDA graphs


def _trial(network: Network, images: Tensor, plan: Plan) -> float:
    """Return the seconds of a training step of a copy of the network: the median of a few."""
    with threads_of(plan):
        try:
            return _time_steps(network, images, plan)
        except RuntimeError:
            if not plan.compiled:
                raise
            return math.inf  # what compiling needs is not installed, or the network cannot be compiled


def _time_steps(network: Network, images: Tensor, plan: Plan) -> float:
    trained = copy.deepcopy(network).to(memory_format=plan.memory_format)  # type: ignore[call-overload]
    images = images.to(memory_format=plan.memory_format)
    outputs_of = trained.training_outputs
    if plan.compiled:
        outputs_of = torch.compile(outputs_of, mode=plan.compiled)
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds[1:]) < _SECONDS and len(seconds) < 50):
        began = time.perf_counter()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=plan.bfloat16):
            outputs = outputs_of(images)
        loss = torch.stack([weight * F.cross_entropy(part.float(), labels) for weight, part in outputs]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        float(loss.detach())
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        if seconds[0] > _LONG:
            return seconds[0]
    return statistics.median(seconds[1:])


@contextmanager
def threads_of(plan: Plan) -> Iterator[None]:
    """Compute with the plan's threads while this lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """If asked, let GPUs compute the same bits from run to run while this lasts.

    Raises `BadRecipe` for a network with a layer that has no such form.
    """
    if not (asked and torch.cuda.is_available()):
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts its products
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise BadRecipe(f"training.deterministic cannot be had with this network: {error}") from error
    finally:
        torch.use_deterministic_algorithms(before)


def _kept(network: Network, size: int, batch: int, first: Plan, precision: str) -> Path:
    """Return the file of the choice for this machine, release of torch, network and shape of the batch."""
    shapes = [(*parameter.shape, parameter.requires_grad) for parameter in network.parameters()]
    modes = [module.training for module in network.modules()]
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    about = [
        processor_name(),
        os.cpu_count(),
        accelerator,
        torch.__version__,
        repr(network),
        shapes,
        modes,
        size,
        batch,
    ]
    return place("plans", json.dumps([about, asdict(first), precision]).encode())


def plan_from(values: dict[str, Any]) -> Plan:
    """Return a plan from its JSON object."""
    return replace(Plan(), **values)

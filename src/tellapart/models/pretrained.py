"""Pretrained weights, from installed packages or their publisher; checked, and loaded without running code."""

import hashlib
import importlib.util
import json
import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from tellapart.errors import WeightsError, printable
from tellapart.io.atomic import cache_folder
from tellapart.io.download import RemoteFile, fetch
from tellapart.models.base import Network
from tellapart.optional import package_file
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.progress import Progress

StateDict = dict[str, Tensor]
_PUBLISHER = "https://download.pytorch.org/models/"
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys of the weights in checkpoints


@dataclass(frozen=True)
class PretrainedWeights:
    """Published weights.

    file: file name, which contains the first digits of its SHA-256. preprocess: the preprocessing that they were
    trained with. source: for the classifier's metadata. package: the installed package that contains the file; if
    empty, it is downloaded from the publisher. rename: from the file's parameter names to ours. classes: returns the
    class names.
    """

    file: str
    preprocess: PreprocessSettings
    source: str
    package: str = ""
    rename: Callable[[StateDict], StateDict] = lambda weights: weights
    classes: Callable[[], tuple[str, ...]] = lambda: imagenet_classes()

    @property
    def is_available(self) -> bool:
        """Whether the weights are on this machine, so that no download is necessary."""
        if self.package:
            return importlib.util.find_spec(self.package) is not None
        return (cache_folder() / "weights" / self.file).is_file()

    def load(self, progress: Progress) -> StateDict:
        """Return the weights by our parameter names.

        Raises `MissingExtraError`, `DownloadError` or `WeightsError`.
        """
        return self.rename(read_weights(self._path(progress)))

    def _path(self, progress: Progress) -> Path:
        expected = checksum_prefix(self.file)
        if not self.package:
            return fetch(RemoteFile(_PUBLISHER + self.file, expected), cache_folder() / "weights", progress)
        path = package_file(self.package, "models", self.file, extra="pretrained")
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        if not checksum.startswith(expected):
            raise WeightsError(
                f"{printable(str(path))} does not have its published checksum (expected SHA-256 {expected}…, found "
                f"{checksum[:16]}…): reinstall the package {self.package}."
            )
        return path


def checksum_prefix(name: str) -> str:
    """Return the first digits of the SHA-256 in the name of a published file; raises `WeightsError`."""
    match = re.search(r"-([0-9a-f]{8,64})\.", name)
    if not match:
        raise WeightsError(
            f"The file name '{printable(name)}' has no SHA-256: expected a name such as resnet50-11ad3fa6.pth."
        )
    return match[1]


def read_weights(path: Path) -> StateDict:
    """Return the tensors of a checkpoint (.safetensors, or .pth as of torchvision) by name, without running its code.

    Raises `WeightsError` for a file that is missing or damaged, or contains other objects than tensors.
    """
    name = printable(str(path))
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # torch warns about other pickles before it rejects them
                content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"Cannot read the weights {name}: {error.strerror or error}.") from error
    except pickle.UnpicklingError as error:
        with open(path, "rb") as file:
            if not file.read(4).startswith((b"\x80", b"PK\x03\x04")):
                raise WeightsError(f"{name} is not a weights file: expected .pth or .safetensors.") from error
        raise WeightsError(
            f"{name} contains other objects than tensors, and loading these could run code: expected a file written by "
            "torch.save(model.state_dict(), ...), or a .safetensors file."
        ) from error
    except Exception as error:  # damaged bytes can raise any exception in torch's reader
        raise WeightsError(f"{name} is damaged or not a weights file: expected .pth or .safetensors.") from error
    return _unwrap(content, name)


def load_weights(network: Network, weights: StateDict, *, with_head: bool) -> None:
    """Load weights into a network, strictly by name and shape; without `with_head` the head does not change.

    Weights of auxiliary heads are ignored if the network has none. Raises `WeightsError`, which names the parameter.
    """
    ignored = [f"{name}." for name in network.auxiliary if getattr(network, name) is None]
    ignored += [] if with_head else [f"{network.head_name}."]
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(tuple(ignored))}
    _check_tensors(network, weights)
    missing, unknown = network.load_state_dict(weights, strict=False)
    missing = [name for name in missing if with_head or not name.startswith(f"{network.head_name}.")]
    if missing or unknown:
        problem = f"{missing[0]} is missing" if missing else f"{unknown[0]} is unknown"
        raise WeightsError(
            f"The weights do not fit {type(network).__name__}: {problem}; use weights of the same network, with "
            "torchvision's parameter names."
        )


def imagenet_classes() -> tuple[str, ...]:
    """Return the 1,000 class names of ImageNet-1k by index; duplicate names have their WordNet number appended."""
    names = _json("imagenet1k_clean_names.json")
    numbers = _json("imagenet1k_to_21k.json")
    return tuple(
        name if names.count(name) == 1 else f"{name} ({numbers[str(index)]})" for index, name in enumerate(names)
    )


def _check_tensors(network: Network, weights: StateDict) -> None:
    for name, parameter in network.state_dict().items():
        tensor = weights.get(name)
        if tensor is not None and tensor.shape != parameter.shape:
            raise WeightsError(
                f"The weights do not fit {type(network).__name__}: {name} has the shape {tuple(tensor.shape)}, "
                f"expected {tuple(parameter.shape)}; use weights of the same network."
            )
        if tensor is not None and not torch.isfinite(tensor).all():
            raise WeightsError(f"The weights have numbers that are not finite in {name}: the file is damaged.")


def _unwrap(content: Any, name: str) -> StateDict:
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(
            f"{name} does not contain weights by name: expected a file written by torch.save(model.state_dict(), ...)."
        )
    # DistributedDataParallel adds this prefix to each name.
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _json(file: str) -> Any:
    path = package_file("imagenet_classes", file, extra="pretrained")
    return json.loads(path.read_text(encoding="utf-8"))

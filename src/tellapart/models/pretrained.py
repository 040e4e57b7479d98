"""Published weights: found in packages or fetched from their publisher, checked, loaded without running code."""

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

from tellapart.errors import BadWeights, printable
from tellapart.io.atomic import cache_folder
from tellapart.io.download import RemoteFile, fetch
from tellapart.models.base import Network
from tellapart.optional import package_file
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.progress import Progress

Weights = dict[str, Tensor]
_PUBLISHER = "https://download.pytorch.org/models/"
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts put the weights


@dataclass(frozen=True)
class Pretrained:
    """Published weights. file: its name holds the first digits of its SHA-256.

    preprocess: how pixels were prepared for them. package: the installed package that holds the file; it is fetched
    from the publisher if this is empty. rename: from the file's parameter names to ours. classes: the
    names of what they tell apart.
    """

    file: str
    preprocess: PreprocessSettings
    source: str
    package: str = ""
    rename: Callable[[Weights], Weights] = lambda weights: weights
    classes: Callable[[], tuple[str, ...]] = lambda: imagenet_classes()

    @property
    def is_here(self) -> bool:
        """Whether nothing has to be fetched."""
        if self.package:
            return importlib.util.find_spec(self.package) is not None
        return (cache_folder() / "weights" / self.file).is_file()

    def load(self, progress: Progress) -> Weights:
        """Return the weights by our parameter names.

        Raises `MissingExtra`, `DownloadFailed` (both say what to fetch and where to put it), or `BadWeights`.
        """
        return self.rename(read_weights(self._path(progress)))

    def _path(self, progress: Progress) -> Path:
        digits = file_digits(self.file)
        if not self.package:
            return fetch(RemoteFile(_PUBLISHER + self.file, digits), cache_folder() / "weights", progress)
        path = package_file(self.package, "models", self.file, extra="pretrained")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if not found.startswith(digits):
            raise BadWeights(
                f"{path} is not the published file of weights (expected SHA-256 {digits}…, found {found[:16]}…): "
                f"reinstall the package {self.package}."
            )
        return path


def file_digits(name: str) -> str:
    """Return the first digits of the SHA-256 that a published file's name ends with."""
    match = re.search(r"-([0-9a-f]{8,64})\.", name)
    if not match:
        raise BadWeights(f"{printable(name)} does not name its SHA-256: expected a name such as resnet50-11ad3fa6.pth.")
    return match[1]


def read_weights(path: Path) -> Weights:
    """Return the tensors of a checkpoint (.safetensors, or torchvision's .pth) by name; no code in it is run.

    Raises `BadWeights` for a file that is missing, damaged, or holds more than weights.
    """
    name = printable(str(path))
    try:
        if path.suffix == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # torch warns of other pickles before it refuses them
                content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadWeights(f"Cannot read the weights {name}: {error.strerror or error}.") from error
    except pickle.UnpicklingError as error:
        with open(path, "rb") as file:
            if not file.read(4).startswith((b"\x80", b"PK\x03\x04")):
                raise BadWeights(f"{name} is not a file of weights: expected .pth or .safetensors.") from error
        raise BadWeights(
            f"{name} holds more than weights and was not loaded, since loading it could run code: expected a file "
            "saved by torch.save(model.state_dict(), ...) or a .safetensors file."
        ) from error
    except Exception as error:  # torch's reader raises whatever the damaged bytes lead it to
        raise BadWeights(f"{name} is not a file of weights, or is damaged: expected .pth or .safetensors.") from error
    return _unwrapped(content, name)


def fill(network: Network, weights: Weights, *, with_head: bool) -> None:
    """Put weights into a network, all of them by name and shape; the head stays as it is unless `with_head`.

    Heads that only training uses are left out where the network has none. Raises `BadWeights` naming what is off.
    """
    absent = [f"{name}." for name in network.auxiliary if getattr(network, name) is None]
    absent += [] if with_head else [f"{network.head_name}."]
    given = {name: tensor for name, tensor in weights.items() if not name.startswith(tuple(absent))}
    for name, expected in network.state_dict().items():
        found = given.get(name)
        if found is not None and found.shape != expected.shape:
            raise BadWeights(
                f"The weights do not fit {type(network).__name__}: {name} has the shape {tuple(found.shape)}, needs "
                f"{tuple(expected.shape)}; give the weights of the same network."
            )
        if found is not None and not torch.isfinite(found).all():
            raise BadWeights(
                f"The weights hold numbers that are not finite, in {name}: give a file that is not damaged."
            )
    missing, unknown = network.load_state_dict(given, strict=False)
    missing = [name for name in missing if with_head or not name.startswith(f"{network.head_name}.")]
    if missing or unknown:
        fault = f"{missing[0]} is missing" if missing else f"{unknown[0]} is not of this network"
        raise BadWeights(
            f"The weights do not fit {type(network).__name__}: {fault}; give the weights of the same network, with "
            "torchvision's parameter names."
        )


def imagenet_classes() -> tuple[str, ...]:
    """Return the 1,000 names of ImageNet-1k by index; the few names used twice carry their WordNet number."""
    names = _json("imagenet1k_clean_names.json")
    numbers = _json("imagenet1k_to_21k.json")
    return tuple(
        name if names.count(name) == 1 else f"{name} ({numbers[str(index)]})" for index, name in enumerate(names)
    )


def _unwrapped(content: Any, name: str) -> Weights:
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BadWeights(f"{name} does not hold weights by name: expected what torch.save(model.state_dict()) writes.")
    # Several processors training together put a prefix before each name.
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _json(file: str) -> Any:
    path = package_file("imagenet_classes", file, extra="pretrained")
    return json.loads(path.read_text(encoding="utf-8"))

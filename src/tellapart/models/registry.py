"""The registry: every network by its name."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cache, partial
from string import digits
from typing import Any

from torch import nn

from tellapart.errors import InputShapeError, printable
from tellapart.models import timm_models
from tellapart.models.base import Network, last_linear
from tellapart.models.ensemble import IDENTITY, Ensemble, EnsembleMember
from tellapart.models.pretrained import PretrainedWeights
from tellapart.models.sequential import SequentialNetwork
from tellapart.models.weights_catalog import WEIGHTS
from tellapart.models.zoo import efficientnet as eff
from tellapart.models.zoo import efficientnet_lite as lite
from tellapart.models.zoo import mobilenet, resnet, vgg
from tellapart.models.zoo.alexnet import AlexNet
from tellapart.models.zoo.convnext import convnext_tiny
from tellapart.models.zoo.googlenet import GoogLeNet
from tellapart.models.zoo.inception_v3 import InceptionV3
from tellapart.models.zoo.lenet import LeNet5
from tellapart.models.zoo.preact_resnet import resnet1001
from tellapart.models.zoo.simple_cnn import SimpleCNN
from tellapart.models.zoo.small_resnet import SmallResNet
from tellapart.recipe.model_names import ENSEMBLE, SEQUENTIAL, TIMM_PREFIX, check_model_name

_MAX_WIDTH = 8192  # of a dense layer of the head
SMALL_IMAGE_SIDE = 64  # smaller images use the small stem
Arguments = dict[str, Any]


@dataclass(frozen=True)
class ModelEntry:
    """A network of the registry.

    size: original input size, in pixels. classes, channels: of the published network. min_size: the smallest supported
    size; full_min_size: with the full stem. small_stem, aux, fixed_size: whether `build` has the parameters small_stem,
    aux and size. fast_bfloat16: whether bfloat16 is fast on a CPU.
    learning_rate_mult, optimizer: multiplier of the default learning rate, and default optimizer, from scratch.
    """

    build: Callable[..., Network]
    size: int
    pretrained: PretrainedWeights | None = None
    _: KW_ONLY
    classes: int = 1000
    channels: int = 3
    min_size: int = 8
    full_min_size: int = 32
    small_stem: bool = True
    aux: bool = False
    fixed_size: bool = False
    fast_bfloat16: bool = True
    learning_rate_mult: float = 1.0
    optimizer: str = "adamw"

    def min_size_for(self, size: int, pretrained: bool) -> int:
        """Return the smallest supported size with the stem that the network has for images of this size."""
        full = self.small_stem and not self.arguments(size, pretrained).get("small_stem")
        return self.full_min_size if full else self.min_size

    def arguments(self, size: int, pretrained: bool = False) -> Arguments:
        """Return the further arguments of `build` for images of this size, with or without pretrained weights.

        For images under 64 pixels the stem has no stride and no pooling, unless pretrained weights require the full
        stem. Auxiliary heads are for training from scratch only.
        """
        arguments: Arguments = {"size": size} if self.fixed_size else {}
        if self.small_stem and not pretrained:
            arguments["small_stem"] = size < SMALL_IMAGE_SIDE
        if self.aux and pretrained:
            arguments["aux"] = False
        return arguments


_WITHOUT_NORM = 0.1  # networks without batch norm require a lower learning rate
MODELS: dict[str, ModelEntry] = {
    "simple_cnn": ModelEntry(SimpleCNN, 32, classes=10, min_size=18, small_stem=False, fixed_size=True),
    "small_resnet": ModelEntry(SmallResNet, 32, classes=10, small_stem=False, optimizer="muon"),
    "lenet5": ModelEntry(LeNet5, 32, classes=10, channels=1, min_size=32, small_stem=False, fixed_size=True),
    "alexnet": ModelEntry(AlexNet, 224, WEIGHTS["alexnet"], full_min_size=63, learning_rate_mult=_WITHOUT_NORM),
    "vgg11": ModelEntry(vgg.vgg11, 224, WEIGHTS["vgg11"], min_size=16, learning_rate_mult=_WITHOUT_NORM),
    "vgg13": ModelEntry(vgg.vgg13, 224, WEIGHTS["vgg13"], min_size=16, learning_rate_mult=_WITHOUT_NORM),
    "vgg16": ModelEntry(vgg.vgg16, 224, WEIGHTS["vgg16"], min_size=16, learning_rate_mult=_WITHOUT_NORM),
    "vgg19": ModelEntry(vgg.vgg19, 224, WEIGHTS["vgg19"], min_size=16, learning_rate_mult=_WITHOUT_NORM),
    "vgg11_bn": ModelEntry(vgg.vgg11_bn, 224, WEIGHTS["vgg11_bn"], min_size=16),
    "vgg13_bn": ModelEntry(vgg.vgg13_bn, 224, WEIGHTS["vgg13_bn"], min_size=16),
    "vgg16_bn": ModelEntry(vgg.vgg16_bn, 224, WEIGHTS["vgg16_bn"], min_size=16),
    "vgg19_bn": ModelEntry(vgg.vgg19_bn, 224, WEIGHTS["vgg19_bn"], min_size=16),
    "googlenet": ModelEntry(GoogLeNet, 224, WEIGHTS["googlenet"], aux=True),
    "inception_v3": ModelEntry(InceptionV3, 299, WEIGHTS["inception_v3"], min_size=21, full_min_size=75, aux=True),
    "resnet18": ModelEntry(resnet.resnet18, 224, WEIGHTS["resnet18"]),
    "resnet34": ModelEntry(resnet.resnet34, 224, WEIGHTS["resnet34"]),
    "resnet50": ModelEntry(resnet.resnet50, 224, WEIGHTS["resnet50"]),
    "resnet101": ModelEntry(resnet.resnet101, 224, WEIGHTS["resnet101"]),
    "resnet152": ModelEntry(resnet.resnet152, 224, WEIGHTS["resnet152"]),
    "wide_resnet50_2": ModelEntry(resnet.wide_resnet50_2, 224, WEIGHTS["wide_resnet50_2"]),
    "resnext50_32x4d": ModelEntry(resnet.resnext50_32x4d, 224, WEIGHTS["resnext50_32x4d"]),
    "resnet20": ModelEntry(resnet.resnet20, 32, classes=10, small_stem=False),
    "resnet32": ModelEntry(resnet.resnet32, 32, classes=10, small_stem=False),
    "resnet44": ModelEntry(resnet.resnet44, 32, classes=10, small_stem=False),
    "resnet56": ModelEntry(resnet.resnet56, 32, classes=10, small_stem=False),
    "resnet110": ModelEntry(resnet.resnet110, 32, classes=10, small_stem=False),
    "resnet1202": ModelEntry(resnet.resnet1202, 32, classes=10, small_stem=False),
    "resnet1001": ModelEntry(resnet1001, 32, classes=10, small_stem=False),
    "mobilenet_v1": ModelEntry(mobilenet.MobileNetV1, 224),
    "mobilenet_v2": ModelEntry(mobilenet.MobileNetV2, 224, WEIGHTS["mobilenet_v2"]),
    "mobilenet_v3_small": ModelEntry(mobilenet.mobilenet_v3_small, 224, WEIGHTS["mobilenet_v3_small"]),
    "mobilenet_v3_large": ModelEntry(mobilenet.mobilenet_v3_large, 224, WEIGHTS["mobilenet_v3_large"]),
    "efficientnet_b0": ModelEntry(eff.efficientnet_b0, 224, WEIGHTS["efficientnet_b0"]),
    "efficientnet_b1": ModelEntry(eff.efficientnet_b1, 240, WEIGHTS["efficientnet_b1"]),
    "efficientnet_b2": ModelEntry(eff.efficientnet_b2, 288, WEIGHTS["efficientnet_b2"]),
    "efficientnet_b3": ModelEntry(eff.efficientnet_b3, 300, WEIGHTS["efficientnet_b3"]),
    "efficientnet_b4": ModelEntry(eff.efficientnet_b4, 380, WEIGHTS["efficientnet_b4"]),
    "efficientnet_b5": ModelEntry(eff.efficientnet_b5, 456, WEIGHTS["efficientnet_b5"]),
    "efficientnet_b6": ModelEntry(eff.efficientnet_b6, 528, WEIGHTS["efficientnet_b6"]),
    "efficientnet_b7": ModelEntry(eff.efficientnet_b7, 600, WEIGHTS["efficientnet_b7"]),
    "efficientnet_v2_s": ModelEntry(eff.efficientnet_v2_s, 384, WEIGHTS["efficientnet_v2_s"]),
    "efficientnet_lite0": ModelEntry(lite.efficientnet_lite0, 224, WEIGHTS["efficientnet_lite0"]),
    "efficientnet_lite1": ModelEntry(lite.efficientnet_lite1, 240, WEIGHTS["efficientnet_lite1"]),
    "efficientnet_lite2": ModelEntry(lite.efficientnet_lite2, 260, WEIGHTS["efficientnet_lite2"]),
    "efficientnet_lite3": ModelEntry(lite.efficientnet_lite3, 280),
    "efficientnet_lite4": ModelEntry(lite.efficientnet_lite4, 300),
    "convnext_tiny": ModelEntry(convnext_tiny, 224, WEIGHTS["convnext_tiny"]),
}
_SEQUENTIAL_ENTRY = ModelEntry(SequentialNetwork, 32, classes=10, min_size=1, small_stem=False, fixed_size=True)


def get_entry(name: str) -> ModelEntry:
    """Return the entry of a network in `MODELS`, of "sequential", "ensemble" or "timm:NAME".

    Raises `UnknownModelError`, which suggests the closest name.
    """
    if name == SEQUENTIAL:
        return _SEQUENTIAL_ENTRY
    if name == ENSEMBLE:
        return _ENSEMBLE_ENTRY
    if name.startswith(TIMM_PREFIX):
        return _timm_entry(name)
    check_model_name(name)
    return MODELS[name]


def larger_models(name: str) -> tuple[str, ...]:
    """Return the larger networks of the same family whose pretrained weights are available, smallest first."""
    names = list(MODELS)
    later = names[names.index(name) + 1 :] if name in MODELS else []
    family = [other for other in later if other.rstrip(digits) == name.rstrip(digits)]
    return tuple(other for other in family if (weights := MODELS[other].pretrained) and weights.is_available)


def create(
    name: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    head: str | Sequence[int] = "linear",
    head_dropout: float = 0.5,
    **arguments: Any,
) -> Network:
    """Create a network with random weights: normalized float (N, C, S, S) -> logits (N, K).

    num_classes: K. in_channels: C, 1 or 3. head: "linear", or the widths of dense layers before the last, each with
    ReLU and dropout `head_dropout`. arguments: of the network, such as small_stem=True or size=28.
    Raises `UnknownModelError`, or `InputShapeError` for invalid arguments.
    """
    if num_classes < 1 or in_channels not in (1, 3):
        raise InputShapeError(f"Expected 1 or 3 channels and at least 1 class, found {in_channels} and {num_classes}.")
    try:
        network = get_entry(name).build(num_classes, in_channels, **arguments)
    except TypeError as error:
        raise InputShapeError(f"Invalid arguments for the network {printable(name)}: {error}.") from error
    if head != "linear":
        features = last_linear(network.head).in_features
        network.set_submodule(network.head_name, _dense_head(features, head, num_classes, head_dropout))
    return network


def _build_ensemble(
    num_classes: int, in_channels: int, *, members: Sequence[dict[str, Any]], views: Sequence[str] = (IDENTITY,)
) -> Ensemble:
    """Build an ensemble; members: `name` and `arguments` of each network, and the fields of `EnsembleMember`."""
    return Ensemble(
        [
            EnsembleMember(
                create(member["name"], num_classes, in_channels, **member["arguments"]),
                member["mean"],
                member["std"],
                member["temperature"],
            )
            for member in members
        ],
        views,
    )


_ENSEMBLE_ENTRY = ModelEntry(_build_ensemble, 32, classes=10, min_size=1, small_stem=False)


def _dense_head(features: int, widths: str | Sequence[int], num_classes: int, dropout: float) -> nn.Sequential:
    if not isinstance(widths, (list, tuple)) or not all(type(w) is int and 0 < w <= _MAX_WIDTH for w in widths):
        raise InputShapeError(
            f"head: expected 'linear' or the widths of dense layers, such as [256, 64], from 1 to {_MAX_WIDTH}, "
            f"found {widths!r}."
        )
    if not 0 <= dropout < 1:
        raise InputShapeError(f"head_dropout: expected at least 0 and less than 1, found {dropout}.")
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, num_classes))


@cache
def _timm_entry(name: str) -> ModelEntry:
    weights = timm_models.weights(name)
    return ModelEntry(
        partial(timm_models.TimmNetwork, name),
        weights.preprocess.size,
        weights,
        small_stem=False,
        fast_bfloat16=False,
    )

"""The networks by name: a plain dict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from string import digits
from typing import Any

from torch import nn

from tellapart.errors import UnknownModel, WrongInput, did_you_mean, printable
from tellapart.models import timm_models
from tellapart.models.base import Network, last_linear
from tellapart.models.ensemble import SAME, Ensemble, Member
from tellapart.models.pretrained import Pretrained
from tellapart.models.sequential import Layered
from tellapart.models.weights import WEIGHTS
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

_MAX_WIDTH = 8192  # of a dense layer in the head
SMALL = 64  # pictures with a shorter side than this are no photographs
Arguments = dict[str, Any]


@dataclass(frozen=True)
class ModelEntry:
    """A network of the registry.

    size: the side it is meant for, in pixels. classes, channels: what it was published for. min_size: the smallest
    side it takes; full_min_size: with the usual stem. small_stem, aux, fixed_size: whether `build` takes small_stem,
    aux and size. fast_bfloat16: depthwise convolutions are slower in bfloat16 on processors. rate: share
    of the default learning rate from scratch, since networks without norms need a lower one. optimizer: from scratch.
    """

    build: Callable[..., Network]
    size: int
    pretrained: Pretrained | None = None
    classes: int = 1000
    channels: int = 3
    min_size: int = 8
    full_min_size: int = 32
    small_stem: bool = True
    aux: bool = False
    fixed_size: bool = False
    fast_bfloat16: bool = True
    rate: float = 1.0
    optimizer: str = "adamw"

    def smallest(self, size: int, pretrained: bool) -> int:
        """Return the smallest side that it takes with the stem which it gets for pictures of this side."""
        full = self.small_stem and not self.arguments(size, pretrained).get("small_stem")
        return self.full_min_size if full else self.min_size

    def arguments(self, size: int, pretrained: bool = False) -> Arguments:
        """Return the further arguments of `build` for pictures of this side, with published weights or without.

        Pictures under 64 pixels get a stem without stride and pooling, unless the weights need the usual one. The
        auxiliary heads are left out where weights are published: they serve training from scratch.
        """
        found: Arguments = {"size": size} if self.fixed_size else {}
        if self.small_stem and not pretrained:
            found["small_stem"] = size < SMALL
        if self.aux and pretrained:
            found["aux"] = False
        return found


_NORMLESS = 0.1
MODELS: dict[str, ModelEntry] = {
    "simple_cnn": ModelEntry(SimpleCNN, 32, classes=10, min_size=18, small_stem=False, fixed_size=True),
    "small_resnet": ModelEntry(SmallResNet, 32, classes=10, small_stem=False, optimizer="muon"),
    "lenet5": ModelEntry(LeNet5, 32, classes=10, channels=1, min_size=32, small_stem=False, fixed_size=True),
    "alexnet": ModelEntry(AlexNet, 224, WEIGHTS["alexnet"], full_min_size=63, rate=_NORMLESS),
    "vgg11": ModelEntry(vgg.vgg11, 224, WEIGHTS["vgg11"], min_size=16, rate=_NORMLESS),
    "vgg13": ModelEntry(vgg.vgg13, 224, WEIGHTS["vgg13"], min_size=16, rate=_NORMLESS),
    "vgg16": ModelEntry(vgg.vgg16, 224, WEIGHTS["vgg16"], min_size=16, rate=_NORMLESS),
    "vgg19": ModelEntry(vgg.vgg19, 224, WEIGHTS["vgg19"], min_size=16, rate=_NORMLESS),
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
    "mobilenet_v1": ModelEntry(mobilenet.MobileNetV1, 224, fast_bfloat16=False),
    "mobilenet_v2": ModelEntry(mobilenet.MobileNetV2, 224, WEIGHTS["mobilenet_v2"], fast_bfloat16=False),
    "mobilenet_v3_small": ModelEntry(
        mobilenet.mobilenet_v3_small, 224, WEIGHTS["mobilenet_v3_small"], fast_bfloat16=False
    ),
    "mobilenet_v3_large": ModelEntry(
        mobilenet.mobilenet_v3_large, 224, WEIGHTS["mobilenet_v3_large"], fast_bfloat16=False
    ),
    "efficientnet_b0": ModelEntry(eff.efficientnet_b0, 224, WEIGHTS["efficientnet_b0"], fast_bfloat16=False),
    "efficientnet_b1": ModelEntry(eff.efficientnet_b1, 240, WEIGHTS["efficientnet_b1"], fast_bfloat16=False),
    "efficientnet_b2": ModelEntry(eff.efficientnet_b2, 288, WEIGHTS["efficientnet_b2"], fast_bfloat16=False),
    "efficientnet_b3": ModelEntry(eff.efficientnet_b3, 300, WEIGHTS["efficientnet_b3"], fast_bfloat16=False),
    "efficientnet_b4": ModelEntry(eff.efficientnet_b4, 380, WEIGHTS["efficientnet_b4"], fast_bfloat16=False),
    "efficientnet_b5": ModelEntry(eff.efficientnet_b5, 456, WEIGHTS["efficientnet_b5"], fast_bfloat16=False),
    "efficientnet_b6": ModelEntry(eff.efficientnet_b6, 528, WEIGHTS["efficientnet_b6"], fast_bfloat16=False),
    "efficientnet_b7": ModelEntry(eff.efficientnet_b7, 600, WEIGHTS["efficientnet_b7"], fast_bfloat16=False),
    "efficientnet_v2_s": ModelEntry(eff.efficientnet_v2_s, 384, WEIGHTS["efficientnet_v2_s"], fast_bfloat16=False),
    "efficientnet_lite0": ModelEntry(lite.efficientnet_lite0, 224, WEIGHTS["efficientnet_lite0"], fast_bfloat16=False),
    "efficientnet_lite1": ModelEntry(lite.efficientnet_lite1, 240, WEIGHTS["efficientnet_lite1"], fast_bfloat16=False),
    "efficientnet_lite2": ModelEntry(lite.efficientnet_lite2, 260, WEIGHTS["efficientnet_lite2"], fast_bfloat16=False),
    "efficientnet_lite3": ModelEntry(lite.efficientnet_lite3, 280, fast_bfloat16=False),
    "efficientnet_lite4": ModelEntry(lite.efficientnet_lite4, 300, fast_bfloat16=False),
    "convnext_tiny": ModelEntry(convnext_tiny, 224, WEIGHTS["convnext_tiny"], fast_bfloat16=False),
}
LAYERED = "layered"
ENSEMBLE = "ensemble"
_LAYERED_ENTRY = ModelEntry(Layered, 32, classes=10, min_size=1, small_stem=False, fixed_size=True)


def entry(name: str) -> ModelEntry:
    """Return the entry of a network; raises `UnknownModel` with the nearest name.

    Besides those of `MODELS` there are "layered", a network described layer by layer, "ensemble" of others, and
    "timm:NAME".
    """
    if name == LAYERED:
        return _LAYERED_ENTRY
    if name == ENSEMBLE:
        return _ENSEMBLE_ENTRY
    if name.startswith(timm_models.PREFIX):
        return _timm_entry(name)
    found = MODELS.get(name)
    if found is None:
        raise UnknownModel(
            f"There is no model '{printable(name)}': expected a name that `tellapart models` lists, a file of layers "
            f"(.toml), or timm:NAME.{did_you_mean(name, MODELS)}"
        )
    return found


def larger(name: str) -> tuple[str, ...]:
    """Return the larger networks of the same make whose published weights are here, the smallest first."""
    make, names = name.rstrip(digits), list(MODELS)
    found = names[names.index(name) + 1 :] if name in MODELS else []
    return tuple(n for n in found if n.rstrip(digits) == make and (known := MODELS[n].pretrained) and known.is_here)


def create(
    name: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    head: str | Sequence[int] = "linear",
    head_dropout: float = 0.5,
    **arguments: Any,
) -> Network:
    """Build a network with fresh weights: normalised float (N, C, S, S) -> logits (N, K).

    num_classes: K. in_channels: C, 1 or 3. head: "linear", or the widths of dense layers before the last, each followed
    by ReLU and dropout of `head_dropout`. arguments: those of the builder, as small_stem=True or size=28.
    Raises `UnknownModel`, or `WrongInput` for arguments that the network cannot be built with.
    """
    if num_classes < 1 or in_channels not in (1, 3):
        raise WrongInput(f"A network needs 1 or 3 channels and at least 1 class, not {in_channels} and {num_classes}.")
    try:
        network = entry(name).build(num_classes, in_channels, **arguments)
    except TypeError as error:
        raise WrongInput(f"{printable(name)} cannot be built with these arguments: {error}.") from error
    if head != "linear":
        features = last_linear(network.head).in_features
        network.set_submodule(network.head_name, _dense_head(features, head, num_classes, head_dropout))
    return network


def _ensemble(
    num_classes: int, in_channels: int, *, members: Sequence[dict[str, Any]], views: Sequence[str] = (SAME,)
) -> Ensemble:
    """Build networks that vote; members: each the `name` and `arguments` of a network, with what `Member` has."""
    return Ensemble(
        [
            Member(
                create(told["name"], num_classes, in_channels, **told["arguments"]),
                told["mean"],
                told["std"],
                told["temperature"],
            )
            for told in members
        ],
        views,
    )


_ENSEMBLE_ENTRY = ModelEntry(_ensemble, 32, classes=10, min_size=1, small_stem=False)


def _dense_head(features: int, widths: str | Sequence[int], num_classes: int, dropout: float) -> nn.Sequential:
    if not isinstance(widths, (list, tuple)) or not all(type(w) is int and 0 < w <= _MAX_WIDTH for w in widths):
        raise WrongInput(
            f"The head is 'linear' or the widths of its dense layers, as in [256, 64], from 1 to {_MAX_WIDTH}, not "
            f"{widths!r}."
        )
    if not 0 <= dropout < 1:
        raise WrongInput(f"The dropout of the head must be from 0 to below 1, not {dropout}.")
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

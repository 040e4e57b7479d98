"""The names of the built-in networks, without importing torch; `tellapart.models.registry` builds them."""

from tellapart.errors import UnknownModelError, did_you_mean, printable

SEQUENTIAL = "sequential"
ENSEMBLE = "ensemble"
TIMM_PREFIX = "timm:"
MODEL_NAMES = (
    "simple_cnn",
    "small_resnet",
    "lenet5",
    "alexnet",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vgg11_bn",
    "vgg13_bn",
    "vgg16_bn",
    "vgg19_bn",
    "googlenet",
    "inception_v3",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "resnext50_32x4d",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet1202",
    "resnet1001",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_s",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
    "convnext_tiny",
)


def check_model_name(name: str) -> None:
    """Raise `UnknownModelError`, which suggests the closest name, unless a name is that of a network."""
    if name in MODEL_NAMES or name in (SEQUENTIAL, ENSEMBLE) or name.startswith(TIMM_PREFIX):
        return
    raise UnknownModelError(
        f"Unknown model '{printable(name)}': expected a name that `tellapart models` lists, a network definition "
        f"(.toml), or {TIMM_PREFIX}NAME.{did_you_mean(name, MODEL_NAMES)}"
    )

"""The networks for parametrized tests: the smallest of each family, and the others for the slow run."""

from collections.abc import Iterable

import pytest

from tellapart.models import MODELS

DEEP = ("resnet1001", "resnet1202")
LARGE = {
    *(f"vgg{layers}{norm}" for layers in (13, 16, 19) for norm in ("", "_bn")),
    *("resnet32", "resnet34", "resnet44", "resnet56", "resnet110", "resnet101", "resnet152", "wide_resnet50_2", *DEEP),
    *("vgg11_bn", "mobilenet_v3_large"),
    *(f"efficientnet_b{number}" for number in range(1, 8)),
    *(f"efficientnet_lite{number}" for number in range(1, 5)),
}


def networks(names: Iterable[str] = MODELS, slow: Iterable[str] = ()) -> list:
    """Return names for `parametrize`; those in `LARGE` and in `slow` are marked as slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE or name in slow)) for name in names]


def small_size(name):
    """Return a size at which the network is fast with its full stem."""
    return 32 if MODELS[name].size <= 32 else max(64, MODELS[name].full_min_size)


def randomize(network):
    """Set norms and biases to random values, so that a missing or swapped parameter changes the output."""
    for name, value in network.state_dict().items():
        if name.endswith(("running_var", "weight")) and value.ndim == 1:
            value.uniform_(0.5, 1.5)
        elif name.endswith("layer_scale"):
            value.uniform_(0.1, 0.5)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)

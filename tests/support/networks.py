"""The networks that tests go through: of each make the smallest, and in the slow run the others of the same code."""

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
    """Return names for `parametrize`; slow: further ones for the slow run."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE or name in slow)) for name in names]

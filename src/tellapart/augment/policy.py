"""RandAugment and TrivialAugment: each sample draws its operations, from a list without settings of their own."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tellapart.augment.color import COLOURS
from tellapart.recipe import AugmentRecipe

# Amounts at full strength, of RandAugment and of TrivialAugment; each goes either way where there are two ways.
# RandAugment's are AutoAugment's (Cubuk et al. 2019, table 6), but its factors of brightness, color, contrast and
# sharpness count either way from 1, no change, where that table counts from 0.1 up. TrivialAugment's are of its "wide"
# space, but its shift of 32 pixels is taken as one of 224: it would empty a picture of 32.
AMOUNTS: dict[str, tuple[float, float]] = {
    "identity": (0.0, 0.0),
    "shear_x": (0.3, 0.99),  # tangent
    "shear_y": (0.3, 0.99),
    "translate_x": (150 / 331, 32 / 224),  # share of the side
    "translate_y": (150 / 331, 32 / 224),
    "rotate": (30.0, 135.0),  # degrees
    "brightness": (0.9, 0.99),  # the factor less 1
    "color": (0.9, 0.99),
    "contrast": (0.9, 0.99),
    "sharpness": (0.9, 0.99),
    "posterize": (4.0, 6.0),  # bits dropped
    "solarize": (1.0, 1.0),  # share of the levels that is inverted
    "autocontrast": (0.0, 0.0),
    "equalize": (0.0, 0.0),
}
_NAMES = list(AMOUNTS)


@dataclass(frozen=True)
class Drawn:
    """The operations of N samples, k each in their order: numbers in `AMOUNTS` (N, k), and amounts with sign (N, k)."""

    operations: NDArray[np.int64]
    amounts: NDArray[np.float64]


def draw(settings: AugmentRecipe, numbers: NDArray[np.float64]) -> Drawn | None:
    """Choose each sample's operations by numbers in 0..1, (N, 3 k or more); None where there is no policy.

    RandAugment takes `policy_ops` at one strength (Cubuk et al. 2020, "RandAugment: practical automated data
    augmentation with a reduced search space", section 3); TrivialAugment takes one, at a strength of its own (Müller
    and Hutter 2021, "TrivialAugment: tuning-free yet state-of-the-art data augmentation", section 3).
    """
    if settings.policy == "none":
        return None
    trivial = settings.policy == "trivialaugment"
    count = 1 if trivial else settings.policy_ops
    which, strength, sign = (numbers[:, start : 3 * count : 3] for start in range(3))  # each N k
    operations = np.floor(which * len(AMOUNTS)).astype(np.int64)
    widest = np.array(list(AMOUNTS.values()))[operations, int(trivial)]
    amounts = widest * (strength if trivial else settings.policy_strength) * np.where(sign < 0.5, -1, 1)
    return Drawn(operations, amounts)


def compose(theta: Tensor | None, drawn: Drawn) -> Tensor:
    """Return the matrices (N, 2, 3) of `theta`, or of no change, with the drawn geometric operations after it.

    So they come before all drawn changes of colour, and the picture is still resampled but once.
    """
    whole = np.tile(np.eye(3), (len(drawn.operations), 1, 1))  # N 3 3
    if theta is not None:
        whole[:, :2] = theta.numpy()
    for operations, amounts in zip(drawn.operations.T, drawn.amounts.T, strict=True):
        whole = whole @ _matrices(operations, amounts)
    return torch.from_numpy(whole[:, :2]).float()


def change_colours(images: Tensor, drawn: Drawn) -> None:
    """Apply the drawn operations on colours to images (N, C, S, S) in 0..1, in place, all of one kind at a time."""
    for operations, amounts in zip(drawn.operations.T, drawn.amounts.T, strict=True):
        for name, change in COLOURS.items():
            chosen = np.flatnonzero(operations == _NAMES.index(name))
            if len(chosen):
                places = torch.from_numpy(chosen).to(images.device)
                amount = torch.from_numpy(amounts[chosen]).to(images.dtype).to(images.device).view(-1, 1, 1, 1)
                images[places] = change(images[places], amount)


def _matrices(operations: NDArray[np.int64], amounts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (N, 3, 3), each of the one operation (N,), and of no change where that is of colour."""

    def amount(name: str) -> NDArray[np.float64]:
        return np.where(operations == _NAMES.index(name), amounts, 0.0)

    angle = np.radians(amount("rotate"))
    zero, one = np.zeros(len(angle)), np.ones(len(angle))
    rows = [
        [np.cos(angle), amount("shear_x") - np.sin(angle), 2 * amount("translate_x")],
        [np.sin(angle) + amount("shear_y"), np.cos(angle), 2 * amount("translate_y")],
        [zero, zero, one],
    ]
    return np.array(rows).transpose(2, 0, 1)

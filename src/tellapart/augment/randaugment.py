"""RandAugment and TrivialAugment: each sample draws operations from a fixed list."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tellapart.augment.color import COLOR_OPERATIONS
from tellapart.recipe.sections import AugmentRecipe

# Amounts at full magnitude, for RandAugment and for TrivialAugment; the sign is random if an operation has two
# directions. RandAugment's are AutoAugment's (Cubuk et al. 2019, table 6), except that the factors of brightness,
# color, contrast and sharpness are centered at 1 (no change) instead of starting at 0.1. TrivialAugment's are its
# "wide" space, except that its translation of 32 pixels is relative to 224: it would empty an image of 32 pixels.
MAX_AMOUNTS: dict[str, tuple[float, float]] = {
    "identity": (0.0, 0.0),
    "shear_x": (0.3, 0.99),  # tangent
    "shear_y": (0.3, 0.99),
    "translate_x": (150 / 331, 32 / 224),  # share of the side
    "translate_y": (150 / 331, 32 / 224),
    "rotate": (30.0, 135.0),  # degrees
    "brightness": (0.9, 0.99),  # factor minus 1
    "color": (0.9, 0.99),
    "contrast": (0.9, 0.99),
    "sharpness": (0.9, 0.99),
    "posterize": (4.0, 6.0),  # bits cleared
    "solarize": (1.0, 1.0),  # share of the levels
    "autocontrast": (0.0, 0.0),
    "equalize": (0.0, 0.0),
}
_NAMES = list(MAX_AMOUNTS)


@dataclass(frozen=True)
class DrawnOperations:
    """The operations of N samples, k each in order: indices in `MAX_AMOUNTS` (N, k), and signed amounts (N, k)."""

    operations: NDArray[np.int64]
    amounts: NDArray[np.float64]


def draw_operations(settings: AugmentRecipe, numbers: NDArray[np.float64]) -> DrawnOperations | None:
    """Draw the operations of each sample from random numbers (N, 3 k or more) in 0 to 1; None without a policy.

    RandAugment draws `num_ops` operations at one magnitude (Cubuk et al. 2020, "RandAugment: practical automated data
    augmentation with a reduced search space", section 3). TrivialAugment draws one operation at a random magnitude
    (Müller and Hutter 2021, "TrivialAugment: tuning-free yet state-of-the-art data augmentation", section 3).
    """
    if settings.policy == "none":
        return None
    trivial = settings.policy == "trivialaugment"
    count = 1 if trivial else settings.num_ops
    choice, magnitude, sign = (numbers[:, start : 3 * count : 3] for start in range(3))  # N k each
    operations = np.floor(choice * len(MAX_AMOUNTS)).astype(np.int64)
    max_amounts = np.array(list(MAX_AMOUNTS.values()))[operations, int(trivial)]
    amounts = max_amounts * (magnitude if trivial else settings.magnitude) * np.where(sign < 0.5, -1, 1)
    return DrawnOperations(operations, amounts)


def compose_matrices(theta: Tensor | None, drawn: DrawnOperations) -> Tensor:
    """Return the matrices (N, 2, 3) of `theta` (identity if None) followed by the drawn geometric operations.

    All geometric operations thus precede all color operations, and the image is resampled once.
    """
    matrices = np.tile(np.eye(3), (len(drawn.operations), 1, 1))  # N 3 3
    if theta is not None:
        matrices[:, :2] = theta.numpy()
    for operations, amounts in zip(drawn.operations.T, drawn.amounts.T, strict=True):
        matrices = matrices @ _operation_matrices(operations, amounts)
    return torch.from_numpy(matrices[:, :2]).float()


def apply_color_operations(images: Tensor, drawn: DrawnOperations) -> None:
    """Apply the drawn color operations to images (N, C, S, S) in 0 to 1, in place."""
    for operations, amounts in zip(drawn.operations.T, drawn.amounts.T, strict=True):
        for name, operation in COLOR_OPERATIONS.items():
            selected = np.flatnonzero(operations == _NAMES.index(name))
            if len(selected):
                index = torch.from_numpy(selected).to(images.device)
                amount = torch.from_numpy(amounts[selected]).to(images.dtype).to(images.device).view(-1, 1, 1, 1)
                images[index] = operation(images[index], amount)


def _operation_matrices(operations: NDArray[np.int64], amounts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix of each operation (N, 3, 3), the identity for a color operation."""

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

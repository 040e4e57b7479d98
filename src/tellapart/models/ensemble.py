"""An ensemble as one network: averages the probabilities of several networks, and of several views of an image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tellapart.errors import InputShapeError
from tellapart.models.base import Network

IDENTITY, HFLIP = "identity", "hflip"
SHIFTS = {"left": (0, 1), "right": (0, -1), "up": (1, 0), "down": (-1, 0)}  # rows and columns to shift by, in steps
_STEPS = 32  # steps per side of an image


@dataclass(frozen=True)
class EnsembleMember:
    """A member network with its normalization, mean and std (C,), and the temperature of its logits."""

    network: Network
    mean: Sequence[float]
    std: Sequence[float]
    temperature: float = 1.0


class Ensemble(Network):
    """A network from images in 0 to 1, which each member normalizes itself, to the log of the average probabilities.

    views: names for `apply_view`, the views of test-time augmentation; the average is over all members and views. The
    features are those of all members in all views, concatenated. Hansen and Salamon 1990, "Neural network ensembles";
    probabilities are averaged as in Lakshminarayanan et al. 2017, "Simple and scalable predictive uncertainty
    estimation using deep ensembles", section 2.4.
    """

    head_name = "average"

    def __init__(self, members: Sequence[EnsembleMember], views: Sequence[str] = (IDENTITY,)) -> None:
        _check_members(members, views)
        networks = [member.network for member in members]
        exact_size = next((network.exact_size for network in networks if network.exact_size is not None), None)
        super().__init__(networks[0].in_channels, max(network.min_size for network in networks), exact_size)
        self.views = tuple(views)
        temperatures = [member.temperature for member in members]
        self.average = ProbabilityAverage([network.head for network in networks], temperatures, len(views))
        for network in networks:
            network.set_submodule(network.head_name, nn.Identity())  # the head is in `average`
        self.members = nn.ModuleList(networks)
        for name in ("mean", "std"):
            values = torch.tensor([list(getattr(member, name)) for member in members])[:, :, None, None]  # M C 1 1
            self.register_buffer(name, values, persistent=False)

    def embed(self, images: Tensor) -> Tensor:
        """Return the features of all members (N, F), concatenated, one view after the other."""
        features = [
            network.embed((view - self.mean[index]) / self.std[index])  # type: ignore[index, operator]
            for view in (apply_view(images, name) for name in self.views)
            for index, network in enumerate(self.members)
        ]
        return torch.cat(features, dim=1)


class ProbabilityAverage(nn.Module):
    """The head of an ensemble: features of all members and views (N, F) -> log of the average probabilities (N, K)."""

    def __init__(self, heads: Sequence[nn.Module], temperatures: Sequence[float], views: int = 1) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.temperatures = tuple(temperatures)
        linear = [next(layer for layer in head.modules() if isinstance(layer, nn.Linear)) for head in heads]
        self.widths = [layer.in_features for layer in linear] * views

    def forward(self, features: Tensor) -> Tensor:
        """(N, F) -> (N, K)."""
        heads = list(zip(self.heads, self.temperatures, strict=True))
        inputs = torch.split(features, self.widths, dim=1)
        log_probabilities = [
            torch.log_softmax(head(x) / temperature, dim=1)
            for x, (head, temperature) in zip(inputs, heads * (len(inputs) // len(heads)), strict=True)
        ]
        return torch.logsumexp(torch.stack(log_probabilities), dim=0) - math.log(len(log_probabilities))


def apply_view(images: Tensor, name: str) -> Tensor:
    """Return a view of images (N, C, S, S): identity, flipped, or shifted by 1/32 of the side (replicated border)."""
    if name == IDENTITY:
        return images
    if name == HFLIP:
        return images.flip(-1)
    step = max(1, round(images.shape[-1] / _STEPS))
    height, width = images.shape[-2:]
    top, left = (step * (1 + direction) for direction in SHIFTS[name])
    padded = functional.pad(images, (step,) * 4, mode="replicate")
    return padded[..., top : top + height, left : left + width]


def _check_members(members: Sequence[EnsembleMember], views: Sequence[str]) -> None:
    if not members or not views:
        raise InputShapeError("An ensemble requires at least one member and one view.")
    if unknown := set(views) - {IDENTITY, HFLIP, *SHIFTS}:
        expected = ", ".join((IDENTITY, HFLIP, *SHIFTS))
        raise InputShapeError(f"Unknown view '{min(unknown)}': expected one of {expected}.")
    networks = [member.network for member in members]
    sizes = {network.exact_size for network in networks if network.exact_size is not None}
    if len(sizes) > 1 or len({network.in_channels for network in networks}) > 1:
        raise InputShapeError("The members of an ensemble must have the same input size and number of channels.")
    temperatures = [member.temperature for member in members]
    if not all(0 < temperature < math.inf for temperature in temperatures):
        raise InputShapeError(f"The temperatures of an ensemble must be finite and above 0, found {temperatures}.")

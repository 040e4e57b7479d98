"""ConvNeXt (Liu et al. 2022, "A ConvNet for the 2020s", table 9).

Parameter names are torchvision's.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tellapart.models.base import Network, smallest_side
from tellapart.models.depthwise import DepthwiseConv2d
from tellapart.models.zoo.blocks import StochasticDepth


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


class Permute(nn.Module):
    """Reorder the dimensions."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """Return x with its dimensions in the given order."""
        return x.permute(self.order)


class Block(nn.Module):
    """7 x 7 depthwise convolution, LayerNorm, two dense layers per pixel, and a shortcut (figure 4)."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.block = nn.Sequential(
            DepthwiseConv2d(width, 7),
            Permute(0, 2, 3, 1),  # N H W C
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            Permute(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), 1e-6))
        self.stochastic_depth = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> the same shape."""
        branch: Tensor = self.stochastic_depth(self.layer_scale * self.block(x))
        return x + branch


class ConvNeXt(Network):
    """4 x 4 patches, four stages with 2 x 2 convolutions between them, global average pooling, a linear layer."""

    head_name = "classifier.2"

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        blocks: tuple[int, ...],
        widths: tuple[int, ...],
        drop: float,
        small_stem: bool,
    ) -> None:
        super().__init__(in_channels, min_size=smallest_side(small_stem))
        norm = partial(LayerNorm2d, eps=1e-6)
        # The small stem has stride 1, for images under 64 pixels.
        stem = nn.Conv2d(in_channels, widths[0], 3, 1, 1) if small_stem else nn.Conv2d(in_channels, widths[0], 4, 4)
        layers: list[nn.Module] = [nn.Sequential(stem, norm(widths[0]))]  # N 96 S/4 S/4
        n_blocks, total = 0, sum(blocks)
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            if stage:
                layers.append(nn.Sequential(norm(widths[stage - 1]), nn.Conv2d(widths[stage - 1], width, 2, 2)))
            layers.append(nn.Sequential(*(Block(width, drop * (n_blocks + i) / (total - 1)) for i in range(count))))
            n_blocks += count
        self.features = nn.Sequential(*layers)  # N 768 S/32 S/32
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(norm(widths[-1]), nn.Flatten(1), nn.Linear(widths[-1], num_classes))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)  # as in the authors' code
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Return the pooled and normalized features (N, 768)."""
        pooled = self.avgpool(self.forward_sequence(self.features, images))
        features: Tensor = self.classifier[:-1](pooled)
        return features


def convnext_tiny(num_classes: int, in_channels: int, small_stem: bool = False) -> ConvNeXt:
    """ConvNeXt-T, 28.6 million parameters for 1,000 classes."""
    return ConvNeXt(num_classes, in_channels, (3, 3, 9, 3), (96, 192, 384, 768), 0.1, small_stem)

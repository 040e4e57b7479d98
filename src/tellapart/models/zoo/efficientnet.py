"""EfficientNet and EfficientNetV2.

Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", table 1 and section 4;
Tan and Le 2021, "EfficientNetV2: smaller models and faster training", table 4. Parameter names are torchvision's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from tellapart.models.base import Network, smallest_side
from tellapart.models.zoo.blocks import (
    Activation,
    ConvNorm,
    InvertedResidual,
    SqueezeExcitation,
    StochasticDepth,
    round_width,
)


@dataclass(frozen=True)
class Stage:
    """A row of the papers' tables. fused: one 3 x 3 convolution expands and filters (EfficientNetV2, figure 2)."""

    expansion: int
    kernel: int
    stride: int
    width: int
    repeats: int
    fused: bool = False


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """A network of the family. stem, last: widths before and after the stages. squeeze: with squeeze-and-excitation.

    drop: rate of stochastic depth in the last block; it increases linearly from 0 in the first.
    """

    stages: tuple[Stage, ...]
    stem: int
    last: int
    dropout: float
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    activation: Activation = nn.SiLU
    squeeze: bool = True
    drop: float = 0.2


class FusedInvertedResidual(nn.Module):
    """Expansion and filter in one convolution, and 1 x 1 projection (EfficientNetV2, figure 2)."""

    def __init__(self, in_width: int, stage: Stage, stride: int, config: EfficientNetConfig, drop: float) -> None:
        super().__init__()
        inner = in_width * stage.expansion
        conv_norm = partial(ConvNorm, norm=config.norm)
        if inner == in_width:
            layers = [conv_norm(in_width, stage.width, stage.kernel, stride, activation=config.activation)]
        else:
            layers = [
                conv_norm(in_width, inner, stage.kernel, stride, activation=config.activation),
                conv_norm(inner, stage.width, 1, activation=None),
            ]
        self.block = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_width == stage.width
        self.stochastic_depth = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, H / stride, W / stride)."""
        y: Tensor = self.block(x)
        return x + self.stochastic_depth(y) if self.has_shortcut else y


class EfficientNet(Network):
    """A stem, stages of inverted residuals, 1 x 1 convolution, global average pooling, dropout, a linear layer."""

    head_name = "classifier"

    def __init__(self, num_classes: int, in_channels: int, config: EfficientNetConfig, small_stem: bool) -> None:
        super().__init__(in_channels, min_size=smallest_side(small_stem))
        conv_norm = partial(ConvNorm, norm=config.norm, activation=config.activation)
        # The small stem has stride 1, for images under 64 pixels.
        layers: list[nn.Module] = [conv_norm(in_channels, config.stem, 3, 1 if small_stem else 2)]  # N stem S/2 S/2
        in_width, n_blocks, total = config.stem, 0, sum(stage.repeats for stage in config.stages)
        for stage in config.stages:
            blocks: list[nn.Module] = []
            for position in range(stage.repeats):
                blocks.append(
                    _block(
                        in_width, stage, stage.stride if position == 0 else 1, config, config.drop * n_blocks / total
                    )
                )
                in_width, n_blocks = stage.width, n_blocks + 1
            layers.append(nn.Sequential(*blocks))
        layers.append(conv_norm(in_width, config.last, 1))  # N last S/32 S/32
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(config.last, num_classes))
        self._initialize()

    def _initialize(self) -> None:
        """As in the authors' code (efficientnet_model.py): He by fan-out, and uniform by the number of classes."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.weight[:, 0].numel() / module.groups
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.out_features)
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.zeros_(module.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, last)."""
        features: Tensor = self.avgpool(self.forward_sequence(self.features, images)).flatten(1)
        return features


def _block(in_width: int, stage: Stage, stride: int, config: EfficientNetConfig, drop: float) -> nn.Module:
    if stage.fused:
        return FusedInvertedResidual(in_width, stage, stride, config, drop)
    inner = in_width * stage.expansion
    squeeze = partial(SqueezeExcitation, inner, max(1, in_width // 4), config.activation, nn.Sigmoid)
    return InvertedResidual(
        (in_width, inner, stage.width),
        stage.kernel,
        stride,
        activation=config.activation,
        norm=config.norm,
        squeeze=squeeze if config.squeeze else None,
        drop=drop,
    )


B0_STAGES = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)


def scale_stage(stage: Stage, width: float, depth: float) -> Stage:
    """Return a stage with scaled width, rounded to a multiple of 8, and scaled repeats, rounded up."""
    return replace(stage, width=round_width(stage.width * width), repeats=math.ceil(stage.repeats * depth))


def _scaled_b0(
    num_classes: int, in_channels: int, scale: tuple[float, float], dropout: float, small_stem: bool, eps: float = 1e-5
) -> EfficientNet:
    """Return B0 scaled by (width, depth); eps: of BatchNorm, as in the training of the published weights."""
    stages = tuple(scale_stage(stage, *scale) for stage in B0_STAGES)
    config = EfficientNetConfig(
        stages=stages,
        stem=round_width(32 * scale[0]),
        last=4 * stages[-1].width,
        dropout=dropout,
        norm=partial(nn.BatchNorm2d, eps=eps),
    )
    return EfficientNet(num_classes, in_channels, config, small_stem)


def efficientnet_b0(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.2) -> EfficientNet:
    """Table 1, 5.3 million parameters for 1,000 classes."""
    return _scaled_b0(num_classes, in_channels, (1.0, 1.0), dropout, small_stem)


def efficientnet_b1(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.2) -> EfficientNet:
    """Width 1.0, depth 1.1: 7.8 million parameters."""
    return _scaled_b0(num_classes, in_channels, (1.0, 1.1), dropout, small_stem)


def efficientnet_b2(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.3) -> EfficientNet:
    """Width 1.1, depth 1.2: 9.1 million parameters."""
    return _scaled_b0(num_classes, in_channels, (1.1, 1.2), dropout, small_stem)


def efficientnet_b3(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.3) -> EfficientNet:
    """Width 1.2, depth 1.4: 12.2 million parameters."""
    return _scaled_b0(num_classes, in_channels, (1.2, 1.4), dropout, small_stem)


def efficientnet_b4(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.4) -> EfficientNet:
    """Width 1.4, depth 1.8: 19.3 million parameters."""
    return _scaled_b0(num_classes, in_channels, (1.4, 1.8), dropout, small_stem)


def efficientnet_b5(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.4) -> EfficientNet:
    """Width 1.6, depth 2.2: 30.4 million parameters."""
    return _scaled_b0(num_classes, in_channels, (1.6, 2.2), dropout, small_stem, eps=1e-3)


def efficientnet_b6(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.5) -> EfficientNet:
    """Width 1.8, depth 2.6: 43.0 million parameters."""
    return _scaled_b0(num_classes, in_channels, (1.8, 2.6), dropout, small_stem, eps=1e-3)


def efficientnet_b7(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.5) -> EfficientNet:
    """Width 2.0, depth 3.1: 66.3 million parameters."""
    return _scaled_b0(num_classes, in_channels, (2.0, 3.1), dropout, small_stem, eps=1e-3)


_V2_S_STAGES = (
    Stage(1, 3, 1, 24, 2, fused=True),
    Stage(4, 3, 2, 48, 4, fused=True),
    Stage(4, 3, 2, 64, 4, fused=True),
    Stage(4, 3, 2, 128, 6),
    Stage(6, 3, 1, 160, 9),
    Stage(6, 3, 2, 256, 15),
)


def efficientnet_v2_s(
    num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.2
) -> EfficientNet:
    """EfficientNetV2, table 4: 21.5 million parameters for 1,000 classes."""
    norm = partial(nn.BatchNorm2d, eps=1e-3)
    config = EfficientNetConfig(stages=_V2_S_STAGES, stem=24, last=1280, dropout=dropout, norm=norm)
    return EfficientNet(num_classes, in_channels, config, small_stem)

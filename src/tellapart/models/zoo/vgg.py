"""VGG (Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image recognition", table 1).

Columns A, B, D and E, plain and with BatchNorm after each convolution. Parameter names are torchvision's.
"""

from torch import Tensor, nn

from tellapart.models.base import Network
from tellapart.models.zoo.blocks import initialize_he

_WIDTHS = (64, 128, 256, 512, 512)


class VGG(Network):
    """Five stages of 3 x 3 convolutions, each followed by pooling, and three dense layers.

    counts: number of convolutions per stage. small_stem: no pooling after the first stage, for images under 64 pixels.
    """

    head_name = "classifier.6"

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        counts: tuple[int, ...],
        batch_norm: bool,
        small_stem: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(in_channels, min_size=16 if small_stem else 32)
        layers: list[nn.Module] = []
        in_width = in_channels
        for stage, (count, width) in enumerate(zip(counts, _WIDTHS, strict=True)):
            for _ in range(count):
                layers.append(nn.Conv2d(in_width, width, 3, padding=1))
                layers += [nn.BatchNorm2d(width)] if batch_norm else []
                layers.append(nn.ReLU())
                in_width = width
            layers.append(nn.Identity() if small_stem and stage == 0 else nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)  # N 512 S/32 S/32
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 49, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )
        initialize_he(self)  # as in torchvision; the paper initializes its deeper columns from a trained column A

    def embed(self, images: Tensor) -> Tensor:
        """Return the output of the second hidden layer (N, 4096)."""
        features = self.avgpool(self.forward_sequence(self.features, images)).flatten(1)  # N 25088
        hidden: Tensor = self.classifier[:-1](features)
        return hidden


_A, _B, _D, _E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)


def vgg11(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.5) -> VGG:
    """Column A, 132.9 million parameters."""
    return VGG(num_classes, in_channels, _A, False, small_stem, dropout)


def vgg13(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.5) -> VGG:
    """Column B, 133.0 million parameters."""
    return VGG(num_classes, in_channels, _B, False, small_stem, dropout)


def vgg16(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.5) -> VGG:
    """Column D, 138.4 million parameters."""
    return VGG(num_classes, in_channels, _D, False, small_stem, dropout)


def vgg19(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.5) -> VGG:
    """Column E, 143.7 million parameters."""
    return VGG(num_classes, in_channels, _E, False, small_stem, dropout)


def vgg11_bn(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.5) -> VGG:
    """Column A with BatchNorm."""
    return VGG(num_classes, in_channels, _A, True, small_stem, dropout)


def vgg13_bn(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.5) -> VGG:
    """Column B with BatchNorm."""
    return VGG(num_classes, in_channels, _B, True, small_stem, dropout)


def vgg16_bn(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.5) -> VGG:
    """Column D with BatchNorm."""
    return VGG(num_classes, in_channels, _D, True, small_stem, dropout)


def vgg19_bn(num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.5) -> VGG:
    """Column E with BatchNorm."""
    return VGG(num_classes, in_channels, _E, True, small_stem, dropout)

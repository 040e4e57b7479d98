"""A small residual network for images under 64 pixels, which trains fast from scratch on a laptop."""

from torch import Tensor, nn

from tellapart.models.base import Network


class ResidualConv(nn.Module):
    """One 3 x 3 convolution with a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = conv_bn_relu(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> the same shape."""
        y: Tensor = self.conv(x)
        return x + y


class SmallResNet(Network):
    """Three stages of one convolution and one residual convolution, at full, half and quarter resolution.

    Residual learning (He et al. 2015, section 3.1) in the layout of David Page's ResNet-9 ("How to train your
    ResNet", 2018), with max pooling between the stages and at the end.
    """

    head_name = "classifier"

    def __init__(self, num_classes: int, in_channels: int, width: int = 32) -> None:
        super().__init__(in_channels)
        widths = (width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        in_width = in_channels
        for stage_width in widths:
            layers += [conv_bn_relu(in_width, stage_width), ResidualConv(stage_width), nn.MaxPool2d(2)]
            in_width = stage_width
        layers[-1] = nn.AdaptiveMaxPool2d(1)
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Linear(in_width, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        """Return the pooled features (N, 4 * width)."""
        return self.forward_sequence(self.features, images)


def conv_bn_relu(in_width: int, width: int) -> nn.Sequential:
    """Return a 3 x 3 convolution with padding, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )

"""AlexNet in its one-column form (Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks").

The network of Krizhevsky, Sutskever and Hinton 2012 for a single device: 64, 192, 384, 256 and 256 filters, without
local response normalization. Parameter names and initial weights (the defaults of torch) are torchvision's. The initial
weights of 2012 (section 5: normal with deviation 0.01, some biases one) require 90 epochs of SGD: in 3 epochs of the
default recipe they learned nothing on 1,797 digits, where the defaults of torch reach 97%.
"""

from torch import Tensor, nn

from tellapart.models.base import Network


class AlexNet(Network):
    """Five convolutions, three pooling layers, and three dense layers."""

    head_name = "classifier.6"

    def __init__(self, num_classes: int, in_channels: int, small_stem: bool = False, dropout: float = 0.5) -> None:
        super().__init__(in_channels, min_size=8 if small_stem else 63)
        # The small stem is 3 x 3 without stride and pooling, for images under 64 pixels.
        first = nn.Conv2d(in_channels, 64, 3, 1, 1) if small_stem else nn.Conv2d(in_channels, 64, 11, 4, 2)
        self.features = nn.Sequential(  # N C S S
            first,
            nn.ReLU(),
            nn.Identity() if small_stem else nn.MaxPool2d(3, 2),  # N 64 S/8 S/8
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),  # N 192 S/16 S/16
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),  # N 256 S/32 S/32
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * 36, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def embed(self, images: Tensor) -> Tensor:
        """Return the output of the second hidden layer (N, 4096)."""
        features = self.avgpool(self.forward_sequence(self.features, images)).flatten(1)  # N 9216
        hidden: Tensor = self.classifier[:-1](features)
        return hidden

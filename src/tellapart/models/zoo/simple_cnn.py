"""The network of introductory tutorials: three convolutions, two pooling layers, one hidden layer."""

from torch import Tensor, nn

from tellapart.errors import InputShapeError
from tellapart.models.base import Network


class SimpleCNN(Network):
    """conv 32, pool, conv 64, pool, conv 64, dense 64, dense K (TensorFlow, "Convolutional Neural Network", 2019).

    Its dense layer requires a fixed input size. Convolutions are 3 x 3 without padding, so S is at least 18.
    """

    head_name = "classifier"

    def __init__(self, num_classes: int, in_channels: int, size: int = 32) -> None:
        super().__init__(in_channels, exact_size=size)
        if size < 18:
            raise InputShapeError(
                f"SimpleCNN: expected images of at least 18 x 18 pixels, found {size}: resize the images."
            )
        side = ((size - 2) // 2 - 2) // 2 - 2
        # Pooling before ReLU gives the same result, and ReLU processes a quarter of the values.
        self.features = nn.Sequential(  # N C S S
            nn.Conv2d(in_channels, 32, 3),
            nn.MaxPool2d(2),  # N 32 S/2 S/2
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.MaxPool2d(2),  # N 64 S/4 S/4
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * side * side, 64),  # N 64
            nn.ReLU(),
        )
        self.classifier = nn.Linear(64, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        """Return the output of the hidden layer (N, 64)."""
        return self.forward_sequence(self.features, images)

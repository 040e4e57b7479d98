"""The convolutional network of the beginner's tutorials: three convolutions, two poolings, one hidden layer."""

from torch import Tensor, nn

from tellapart.errors import WrongInput
from tellapart.models.base import Network


class SimpleCNN(Network):
    """conv 32, pool, conv 64, pool, conv 64, dense 64, dense K (TensorFlow, "Convolutional Neural Network", 2019).

    Its dense layer fixes the input size. Convolutions are 3 x 3 without padding, so S is at least 18.
    """

    head_name = "classifier"

    def __init__(self, num_classes: int, in_channels: int, size: int = 32) -> None:
        super().__init__(in_channels, exact_size=size)
        if size < 18:
            raise WrongInput(f"SimpleCNN takes sides from 18 pixels, not {size}: resize the pictures.")
        side = ((size - 2) // 2 - 2) // 2 - 2
        # The largest of rectified values is the largest value, rectified: the same, on a quarter of the values.
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
        """Return the hidden layer (N, 64)."""
        return self.through(self.features, images)

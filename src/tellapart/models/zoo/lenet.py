"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition", fig. 2).

The layout of 1998 for 32 x 32 images, with common simplifications: layer C3 is connected to all six maps instead of the
subsets of table I (61,706 parameters instead of 60,000), pooling has no weights, tanh is not scaled, and a linear layer
with cross-entropy replaces the Gaussian connections.
"""

from torch import Tensor, nn

from tellapart.errors import InputShapeError
from tellapart.models.base import Network


class LeNet5(Network):
    """conv 6, pool, conv 16, pool, conv 120, dense 84, dense K. Its dense layers require a fixed input size."""

    head_name = "classifier"

    def __init__(self, num_classes: int, in_channels: int, size: int = 32) -> None:
        super().__init__(in_channels, exact_size=size)
        if size < 32:
            raise InputShapeError(
                f"LeNet5: expected images of at least 32 x 32 pixels, found {size}: resize the images."
            )
        side = ((size - 4) // 2 - 4) // 2 - 4
        self.features = nn.Sequential(  # N C S S
            nn.Conv2d(in_channels, 6, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),  # N 6 S/2 S/2
            nn.Conv2d(6, 16, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),  # N 16 S/4 S/4
            nn.Conv2d(16, 120, 5),
            nn.Tanh(),
            nn.Flatten(),  # N 120 at 32 pixels
            nn.Linear(120 * side * side, 84),
            nn.Tanh(),
        )
        self.classifier = nn.Linear(84, num_classes)
        self._initialize()

    def _initialize(self) -> None:
        """Uniform within 2.4 / fan-in (section II.B and appendix A)."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                bound = 2.4 / module.weight[0].numel()
                nn.init.uniform_(module.weight, -bound, bound)

    def embed(self, images: Tensor) -> Tensor:
        """Return the output of the hidden layer (N, 84)."""
        return self.forward_sequence(self.features, images)

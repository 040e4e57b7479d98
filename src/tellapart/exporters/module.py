"""Everything after the resize as one torch module, for torch's exporters.

Letters: N images, S the network's input size, F features, K classes, D axes.
"""

import torch
from torch import Tensor, nn

from tellapart.classifier.classifier import Classifier
from tellapart.preprocess.torch_preprocess import Preprocess
from tellapart.uncertainty.ood import OODDetector


class ExportModule(nn.Module):
    """uint8 (N, S, S, 3) -> probabilities (N, K), and distances (N,) if the classifier has an OOD detector."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.preprocess = Preprocess(classifier.preprocess)
        self.network, self.temperature = classifier.network, classifier.temperature
        self.distance = _Distance(classifier.ood_detector) if classifier.ood_detector else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features = self.network.embed(self.preprocess(pixels))
        probabilities = (self.network.head(features) / self.temperature).softmax(dim=1)
        return (probabilities, self.distance(features)) if self.distance else (probabilities,)


class _Distance(nn.Module):
    """`OODDetector.distances` as matrix products, without an array of shape (N, K, D).

    It computes in double precision, as the squares are differences of large numbers.
    """

    means: Tensor
    axes: Tensor
    weights: Tensor

    def __init__(self, detector: OODDetector) -> None:
        super().__init__()
        for name, values in detector.tensors().items():
            self.register_buffer(name, torch.from_numpy(values))
        self.register_buffer("weights", 1 / torch.from_numpy(detector.variances).double() - 1 / detector.noise)
        self.noise = detector.noise

    def forward(self, features: Tensor) -> Tensor:
        # Stored in single precision, which halves the size; runtimes convert them once.
        rows, class_means, axes = features.flatten(1).double(), self.means.double(), self.axes.double()
        isotropic = _square_distances(rows, class_means) / self.noise
        # Correct the distance along the axes, where the variance differs from the noise.
        scale = self.weights.abs().sqrt()
        projections, means = rows @ axes.T, class_means @ axes.T
        correction = _square_distances(projections * scale, means * scale)
        squares = (isotropic - correction).amin(dim=1).clamp_min(0)
        return (squares / self.means.shape[1]).sqrt().float()


def _square_distances(rows: Tensor, others: Tensor) -> Tensor:
    lengths = rows.square().sum(dim=1, keepdim=True) + others.square().sum(dim=1)
    return lengths - 2 * rows @ others.T

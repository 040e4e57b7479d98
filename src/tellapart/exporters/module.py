"""Everything after the resize as one torch module, for torch to export: pixels in, probabilities and distances out.

Letters: N pictures, S the network's input size, F features, K classes, D axes.
"""

import torch
from torch import Tensor, nn

from tellapart.classifier.classifier import Classifier
from tellapart.preprocess.torch_resize import Preprocess
from tellapart.uncertainty.ood import Familiarity


class Answering(nn.Module):
    """uint8 (N, S, S, 3) -> probabilities (N, K), and distances (N,) where the classifier knows them."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.preprocess = Preprocess(classifier.preprocess)
        self.network, self.temperature = classifier.network, classifier.temperature
        self.distance = _Distance(classifier.familiarity) if classifier.familiarity else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        features = self.network.embed(self.preprocess(pixels))
        probabilities = (self.network.head(features) / self.temperature).softmax(dim=1)
        return (probabilities, self.distance(features)) if self.distance else (probabilities,)


class _Distance(nn.Module):
    """What `Familiarity.distances` computes, by products of matrices alone: no array of (N, K, D) is needed.

    In double precision, as the squares are differences of large numbers.
    """

    means: Tensor
    axes: Tensor
    weights: Tensor

    def __init__(self, known: Familiarity) -> None:
        super().__init__()
        for name, values in known.tensors().items():
            self.register_buffer(name, torch.from_numpy(values))
        self.register_buffer("weights", 1 / torch.from_numpy(known.variances).double() - 1 / known.noise)
        self.noise = known.noise

    def forward(self, features: Tensor) -> Tensor:
        # Kept as single precision, half as large in the file; runtimes widen them once.
        rows, all_means, axes = features.flatten(1).double(), self.means.double(), self.axes.double()
        everywhere = _square_distances(rows, all_means) / self.noise
        # Along the axes the variance is another: what counts too little or too much there is made good.
        scale = self.weights.abs().sqrt()
        along, means = rows @ axes.T, all_means @ axes.T
        made_good = _square_distances(along * scale, means * scale)
        squares = (everywhere - made_good).amin(dim=1).clamp_min(0)
        return (squares / self.means.shape[1]).sqrt().float()


def _square_distances(rows: Tensor, others: Tensor) -> Tensor:
    lengths = rows.square().sum(dim=1, keepdim=True) + others.square().sum(dim=1)
    return lengths - 2 * rows @ others.T

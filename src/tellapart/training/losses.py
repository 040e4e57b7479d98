"""What a row of a batch costs: cross-entropy or focal loss, smoothed, weighted by class, shared with a teacher.

The costs are returned row by row, so that their mean over several ranks is the sum divided by the rows of all ranks.
Letters: n rows of a batch, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tellapart.recipe import TrainingRecipe


@dataclass(frozen=True)
class Loss:
    """The loss that a recipe asks for. class_weights (K,): what a picture of each class counts for, or None."""

    recipe: TrainingRecipe
    class_weights: Tensor | None = None

    def row_losses(self, logits: Tensor, targets: Tensor, taught: Tensor | None = None) -> Tensor:
        """Return the cost of each row (n,) for float32 logits (n, K).

        targets: class indices (n,), or distributions (n, K) as mixed pictures have. taught: a teacher's soft targets
        (n, K), as `Teacher.soft_targets` gives them; they take their share of the loss.
        """
        rows = LOSSES[self.recipe.loss](logits, targets, self)
        if taught is None:
            return rows
        share = self.recipe.teacher_weight
        return (1 - share) * rows + share * distillation_rows(logits, taught, self.recipe.teacher_temperature)


def cross_entropy_rows(logits: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Return the cross-entropy (n,) between logits (n, K) and targets, as in `Loss.row_losses`."""
    smoothing, weights = loss.recipe.label_smoothing, loss.class_weights
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    if targets.ndim == 1:
        plain = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
        return weights.to(logits)[targets] * plain
    return F.cross_entropy(logits, _spread(targets, loss, logits), reduction="none")


def focal_rows(logits: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Return the focal loss (n,): what is told apart well counts less, by the factor (1 - p)^gamma.

    Lin et al. 2017, "Focal loss for dense object detection", section 3.2. For distributions and smoothed targets it is
    the sum over classes, each by its share of the target; gamma 0 is cross-entropy.
    """
    log_p = F.log_softmax(logits, dim=1)  # n K
    # Above zero, since below gamma 1 the factor's slope at zero is infinite.
    missing = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).eps)
    return -(_spread(targets, loss, logits) * missing**loss.recipe.focal_gamma * log_p).sum(dim=1)


LOSSES: dict[str, Callable[[Tensor, Tensor, Loss], Tensor]] = {
    "cross_entropy": cross_entropy_rows,
    "focal": focal_rows,
}


def distillation_rows(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return each row's divergence (n,) of softmax(logits / T) from a teacher's soft targets (n, K), times T^2.

    Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2: T^2 keeps the gradient's size.
    """
    log_q = F.log_softmax(logits / temperature, dim=1)
    return F.kl_div(log_q, taught, reduction="none").sum(dim=1) * temperature**2


def _spread(targets: Tensor, loss: Loss, logits: Tensor) -> Tensor:
    """Return targets as distributions (n, K), times the class weights, a share of each spread over all classes.

    Label smoothing: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7. The spread share keeps
    the weight of its row's class. torch gives it the weights of the classes it is spread over instead, and would teach
    that a class a hundred times rarer than the others is likely everywhere.
    """
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[1])
    spread = targets.to(logits.dtype)
    if loss.class_weights is not None:
        spread = spread * loss.class_weights.to(logits)
    smoothing = loss.recipe.label_smoothing
    if not smoothing:
        return spread
    return (1 - smoothing) * spread + smoothing * spread.mean(dim=1, keepdim=True)

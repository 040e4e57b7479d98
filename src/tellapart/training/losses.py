"""Losses: cross-entropy or focal loss, with label smoothing, class weights and distillation.

They are returned per row, so that the mean over several ranks is the sum divided by the rows of all ranks. Letters: n
rows of a batch, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tellapart.recipe.recipe import Recipe


@dataclass(frozen=True)
class Loss:
    """The loss of a recipe. class_weights (K,): the weight of the images of each class, or None."""

    recipe: Recipe
    class_weights: Tensor | None = None

    def row_losses(self, logits: Tensor, targets: Tensor, soft_targets: Tensor | None = None) -> Tensor:
        """Return the loss of each row (n,) for float32 logits (n, K).

        targets: class indices (n,), or distributions (n, K), as for mixed images. soft_targets: of a teacher (n, K),
        from `Teacher.soft_targets`; their share of the loss is `distillation.alpha`.
        """
        losses = LOSSES[self.recipe.loss.name](logits, targets, self)
        if soft_targets is None:
            return losses
        alpha, temperature = self.recipe.distillation.alpha, self.recipe.distillation.temperature
        return (1 - alpha) * losses + alpha * soft_target_losses(logits, soft_targets, temperature)


def cross_entropy_losses(logits: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Return the cross-entropy (n,) between logits (n, K) and targets, as in `Loss.row_losses`."""
    smoothing, weights = loss.recipe.loss.label_smoothing, loss.class_weights
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    if targets.ndim == 1:
        unweighted = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
        return weights.to(logits)[targets] * unweighted
    return F.cross_entropy(logits, _target_distributions(targets, loss, logits), reduction="none")


def focal_losses(logits: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Return the focal loss (n,), which reduces the weight of easy images by the factor (1 - p)^gamma.

    Lin et al. 2017, "Focal loss for dense object detection", section 3.2. For distributions and smoothed targets it is
    the sum over classes, weighted by the target; with gamma 0 it is cross-entropy.
    """
    log_p = F.log_softmax(logits, dim=1)  # n K
    # Clamped above zero: with gamma below 1 the slope of the factor is infinite at zero.
    complement = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).eps)
    distributions = _target_distributions(targets, loss, logits)
    return -(distributions * complement**loss.recipe.loss.focal_gamma * log_p).sum(dim=1)


LOSSES: dict[str, Callable[[Tensor, Tensor, Loss], Tensor]] = {
    "cross_entropy": cross_entropy_losses,
    "focal": focal_losses,
}


def soft_target_losses(logits: Tensor, soft_targets: Tensor, temperature: float) -> Tensor:
    """Return the KL divergence (n,) of softmax(logits / T) from soft targets (n, K), times T^2.

    Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2: T^2 keeps the scale of the gradient.
    """
    log_q = F.log_softmax(logits / temperature, dim=1)
    return F.kl_div(log_q, soft_targets, reduction="none").sum(dim=1) * temperature**2


def _target_distributions(targets: Tensor, loss: Loss, logits: Tensor) -> Tensor:
    """Return targets as smoothed distributions (n, K), times the class weights.

    Label smoothing: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7. The smoothed share has the
    weight of the class of its row. PyTorch gives it the weights of the classes that it is spread over, and would teach
    that a class a hundred times rarer than the others is likely everywhere.
    """
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[1])
    distributions = targets.to(logits.dtype)
    if loss.class_weights is not None:
        distributions = distributions * loss.class_weights.to(logits)
    smoothing = loss.recipe.loss.label_smoothing
    if not smoothing:
        return distributions
    return (1 - smoothing) * distributions + smoothing * distributions.mean(dim=1, keepdim=True)

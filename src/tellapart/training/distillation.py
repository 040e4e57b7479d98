"""Knowledge distillation: a trained classifier, the teacher, gives soft targets to a smaller network, the student."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tellapart.errors import RecipeError, listed
from tellapart.models.base import Network
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_preprocess import Preprocess, to_grayscale
from tellapart.recipe.recipe import Recipe


class Teacher:
    """Predicts soft targets for the augmented images of the student, in the student's order of classes.

    Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent", section 3.1: teacher and
    student receive the same augmented view. columns (K,): the teacher's column for each class of the student.
    """

    def __init__(self, network: Network, settings: PreprocessSettings, columns: Sequence[int], recipe: Recipe) -> None:
        device = next(network.parameters()).device
        self.network = network.eval().requires_grad_(False)
        self.preprocess = Preprocess(settings).to(device)
        self.columns = torch.tensor(columns, device=device)  # K
        self.temperature = recipe.distillation.temperature
        self.bfloat16 = recipe.execution.precision == "bfloat16"

    @torch.no_grad()
    def soft_targets(self, images: Tensor) -> Tensor:
        """Return softmax(logits / T), float32 (n, K), for augmented images (n, C, S, S) in 0..1, not normalized.

        The images may be gray or in color and of any size. Pass them before any reduction of their size.
        """
        self.network.eval()
        inputs = self.preprocess.normalize(self._convert(images)).to(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.network(inputs)
        return F.softmax(logits.float()[:, self.columns] / self.temperature, dim=1)

    def _convert(self, images: Tensor) -> Tensor:
        """Convert images to the teacher's channels and size."""
        settings = self.preprocess.settings
        if settings.channels < images.shape[1]:
            images = to_grayscale(images)
        elif settings.channels > images.shape[1]:
            images = images.expand(-1, settings.channels, -1, -1)
        if images.shape[-1] == settings.size:
            return images
        return F.interpolate(images, size=(settings.size,) * 2, mode=settings.interpolation, antialias=True)


def matching_columns(student: Sequence[str], teacher: Sequence[str]) -> list[int]:
    """Return the teacher's column of each class of the student, matched by name.

    Raises `RecipeError` unless both have the same classes.
    """
    missing, additional = sorted(set(student) - set(teacher)), sorted(set(teacher) - set(student))
    if missing or additional:
        differences = [f"it lacks {listed(missing)}"] if missing else []
        differences += [f"it also has {listed(additional)}"] if additional else []
        raise RecipeError(
            f"Expected a teacher with the classes of the images, but {' and '.join(differences)}: use a teacher that "
            "was trained on the same classes."
        )
    return [list(teacher).index(name) for name in student]

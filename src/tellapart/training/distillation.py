"""A teacher: a trained classifier whose soft answers a smaller network learns from."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tellapart.errors import BadRecipe, listed
from tellapart.models.base import Network
from tellapart.preprocess.settings import PreprocessSettings
from tellapart.preprocess.torch_resize import Preprocess, grey
from tellapart.recipe import TrainingRecipe


class Teacher:
    """Tells the soft targets of the very pictures that the student sees, in the student's order of classes.

    Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent", section 3.1: teacher and
    student see one and the same changed view. columns (K,): the teacher's column for each class of the student.
    """

    def __init__(
        self, network: Network, settings: PreprocessSettings, columns: Sequence[int], recipe: TrainingRecipe
    ) -> None:
        device = next(network.parameters()).device
        self.network = network.eval().requires_grad_(False)
        self.preprocess = Preprocess(settings).to(device)
        self.columns = torch.tensor(columns, device=device)  # K
        self.temperature = recipe.teacher_temperature
        self.bfloat16 = recipe.precision == "bfloat16"

    @torch.no_grad()
    def soft_targets(self, images: Tensor) -> Tensor:
        """Return softmax(logits / T), (n, K) in float32, for changed images (n, C, S, S) in 0..1, not normalised.

        The images may be grey or in colour and of any size, and should be as sharp as there are: not yet shrunk.
        """
        self.network.eval()
        inputs = self.preprocess.normalise(self._as_taught(images)).to(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.network(inputs)
        return F.softmax(logits.float()[:, self.columns] / self.temperature, dim=1)

    def _as_taught(self, images: Tensor) -> Tensor:
        """Bring images to the teacher's channels and size."""
        settings = self.preprocess.settings
        if settings.channels < images.shape[1]:
            images = grey(images)
        elif settings.channels > images.shape[1]:
            images = images.expand(-1, settings.channels, -1, -1)
        if images.shape[-1] == settings.size:
            return images
        return F.interpolate(images, size=(settings.size,) * 2, mode=settings.interpolation, antialias=True)


def matching_columns(student: Sequence[str], teacher: Sequence[str]) -> list[int]:
    """Return the teacher's column of each class of the student, matched by name.

    Raises `BadRecipe` if either knows classes that the other does not.
    """
    lacking, surplus = sorted(set(student) - set(teacher)), sorted(set(teacher) - set(student))
    if lacking or surplus:
        said = [f"lacks {listed(lacking)}"] * bool(lacking) + [f"knows {listed(surplus)} besides"] * bool(surplus)
        raise BadRecipe(f"The teacher must tell the same classes as the pictures, but it {' and '.join(said)}.")
    return [list(teacher).index(name) for name in student]

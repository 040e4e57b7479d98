"""Several classifiers as one: by a vote of their probabilities, or by the mean of their weights.

And one classifier that sees each picture in several ways.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from tellapart.classifier.classifier import Architecture, Classifier
from tellapart.errors import CannotCombine, printable
from tellapart.models.ensemble import MIRRORED, SAME, SHIFTS
from tellapart.models.registry import ENSEMBLE

# What people ask for, and the views that it adds to the picture as it is.
VIEWS = {"mirror": (MIRRORED,), "shifts": tuple(SHIFTS)}


def ensemble(classifiers: Sequence[Classifier], views: Sequence[str] = ()) -> Classifier:
    """Return one classifier whose probabilities are the mean of several's, all in one network.

    views: of `VIEWS`: how each sees a picture, besides as it is, which is test-time augmentation (Krizhevsky et al.
    2012, "ImageNet classification with deep convolutional neural networks", section 4.1); one classifier is enough
    then. They must tell the same classes of pictures resized in the same way. What it knows of its own doubts is still
    to be learnt (`with_confidence`). Raises `CannotCombine`.
    """
    seen = _views(views)
    first = _alike(classifiers, ("resize", "size", "channels", "interpolation"), least=1 if views else 2)
    members = [
        {
            "name": each.architecture.name,
            "arguments": each.architecture.arguments,
            "mean": list(each.preprocess.mean),
            "std": list(each.preprocess.std),
            "temperature": each.temperature,
        }
        for each in classifiers
    ]
    if any(member["name"] == ENSEMBLE for member in members):
        raise CannotCombine("An ensemble cannot be a member of another: name the classifiers that it was made of.")
    arguments = {"members": members} | ({"views": seen} if views else {})
    architecture = Architecture(ENSEMBLE, len(first.classes), first.architecture.in_channels, arguments)
    network = architecture.build()
    weights = {}
    for place, each in enumerate(classifiers):
        head = each.network.head_name + "."
        for name, value in each.network.state_dict().items():
            own = (
                f"vote.heads.{place}.{name.removeprefix(head)}" if name.startswith(head) else f"members.{place}.{name}"
            )
            weights[own] = value
    network.load_state_dict(weights)
    channels = first.preprocess.channels
    settings = replace(first.preprocess, mean=(0.0,) * channels, std=(1.0,) * channels)
    return Classifier(architecture, network.eval(), settings, first.classes)


def averaged(classifiers: Sequence[Classifier]) -> Classifier:
    """Return one classifier of the same size, with the mean of several's weights.

    It pays where all were fine-tuned from the same weights (Wortsman et al. 2022, "Model soups", section 2); from
    scratch their weights have nothing in common, and the mean of them tells nothing. Raises `CannotCombine`.
    """
    first = _alike(classifiers, ("resize", "size", "channels", "interpolation", "mean", "std"))
    if any(each.architecture != first.architecture for each in classifiers):
        raise CannotCombine("The weights of different networks have no mean: let the classifiers vote instead.")
    states = [each.network.state_dict() for each in classifiers]
    mean = {
        name: torch.stack([state[name].float() for state in states]).mean(dim=0).to(value.dtype)
        for name, value in states[0].items()
    }
    network = first.architecture.build()
    network.load_state_dict(mean)
    return Classifier(first.architecture, network.eval(), first.preprocess, first.classes)


def _views(asked: Sequence[str]) -> list[str]:
    """Return the names of the views, the picture as it is first."""
    for name in asked:
        if name not in VIEWS:
            raise CannotCombine(f"Expected {' or '.join(VIEWS)} as a view of pictures, found '{printable(name)}'.")
    return [SAME, *dict.fromkeys(view for name in asked for view in VIEWS[name])]


def _alike(classifiers: Sequence[Classifier], settings: tuple[str, ...], least: int = 2) -> Classifier:
    if len(classifiers) < least:
        raise CannotCombine("Expected at least two classifiers to combine.")
    first = classifiers[0]
    for each in classifiers[1:]:
        if each.classes != first.classes:
            raise CannotCombine(
                "The classifiers tell different classes: only those of the same classes can be combined."
            )
        for name in settings:
            if getattr(each.preprocess, name) != getattr(first.preprocess, name):
                raise CannotCombine(
                    f"The classifiers take pictures otherwise ({name}: {getattr(first.preprocess, name)} and "
                    f"{getattr(each.preprocess, name)}): train them with the same preprocess."
                )
    return first

"""Several classifiers as one: by a vote of their probabilities, or by the mean of their weights."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from tellapart.classifier import Architecture, Classifier
from tellapart.errors import CannotCombine
from tellapart.models.registry import ENSEMBLE


def ensemble(classifiers: Sequence[Classifier]) -> Classifier:
    """Return one classifier whose probabilities are the mean of several's, all in one network.

    They must tell the same classes of pictures resized in the same way. What it knows of its own doubts is still to be
    learnt (`with_confidence`). Raises `CannotCombine`.
    """
    first = _alike(classifiers, ("resize", "size", "channels", "interpolation"))
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
    architecture = Architecture(ENSEMBLE, len(first.classes), first.architecture.in_channels, {"members": members})
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


def _alike(classifiers: Sequence[Classifier], settings: tuple[str, ...]) -> Classifier:
    if len(classifiers) < 2:
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

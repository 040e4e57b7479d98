"""Ensembles: several classifiers as one, by averaging their probabilities or weights; and test-time augmentation."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import or_

import torch

from tellapart.classifier.architecture import Architecture
from tellapart.classifier.classifier import Classifier
from tellapart.data.seen_images import SeenImages
from tellapart.errors import EnsembleError, printable
from tellapart.models.ensemble import HFLIP, IDENTITY, SHIFTS
from tellapart.recipe.model_names import ENSEMBLE

TTA = {"hflip": (HFLIP,), "shift": tuple(SHIFTS)}  # option -> the views that are added to the image itself


def average_probabilities(classifiers: Sequence[Classifier], tta: Sequence[str] = ()) -> Classifier:
    """Return one classifier, in one network, whose probabilities are the mean of those of several.

    tta: test-time augmentation, names of `TTA`, whose views are averaged too (Krizhevsky et al. 2012, "ImageNet
    classification with deep convolutional neural networks", section 4.1); then one classifier is enough. All must have
    the same classes and resizing. The result is not calibrated. Raises `EnsembleError`.
    """
    views = _views(tta)
    first = _check_alike(classifiers, ("resize", "size", "channels", "interpolation"), minimum=1 if tta else 2)
    if any(classifier.architecture.name == ENSEMBLE for classifier in classifiers):
        raise EnsembleError("An ensemble cannot be a member of another ensemble: use its members instead.")
    members = [
        {
            "name": classifier.architecture.name,
            "arguments": classifier.architecture.arguments,
            "mean": list(classifier.preprocess.mean),
            "std": list(classifier.preprocess.std),
            "temperature": classifier.temperature,
        }
        for classifier in classifiers
    ]
    arguments = {"members": members} | ({"views": views} if tta else {})
    architecture = Architecture(ENSEMBLE, len(first.classes), first.architecture.in_channels, arguments)
    network = architecture.build()
    network.load_state_dict(_member_weights(classifiers))
    channels = first.preprocess.channels
    preprocess = replace(first.preprocess, mean=(0.0,) * channels, std=(1.0,) * channels)  # each member normalizes
    return Classifier(
        architecture=architecture,
        network=network.eval(),
        preprocess=preprocess,
        classes=first.classes,
        seen=_seen_by_any(classifiers),
    )


def average_weights(classifiers: Sequence[Classifier]) -> Classifier:
    """Return one classifier of the same size, with the mean of the weights of several.

    Useful for classifiers that were fine-tuned from the same weights (Wortsman et al. 2022, "Model soups", section 2);
    networks that were trained from scratch have unrelated weights. Raises `EnsembleError`.
    """
    first = _check_alike(classifiers, ("resize", "size", "channels", "interpolation", "mean", "std"))
    if any(classifier.architecture != first.architecture for classifier in classifiers):
        raise EnsembleError(
            "Cannot average the weights of different architectures: use average='probabilities' instead."
        )
    states = [classifier.network.state_dict() for classifier in classifiers]
    mean = {
        name: torch.stack([state[name].float() for state in states]).mean(dim=0).to(value.dtype)
        for name, value in states[0].items()
    }
    network = first.architecture.build()
    network.load_state_dict(mean)
    return Classifier(
        architecture=first.architecture,
        network=network.eval(),
        preprocess=first.preprocess,
        classes=first.classes,
        seen=_seen_by_any(classifiers),
    )


def _seen_by_any(classifiers: Sequence[Classifier]) -> SeenImages:
    return reduce(or_, (classifier.seen for classifier in classifiers))


def _member_weights(classifiers: Sequence[Classifier]) -> dict[str, torch.Tensor]:
    """Return the weights of the members by their names in the ensemble network."""
    weights = {}
    for member, classifier in enumerate(classifiers):
        head = classifier.network.head_name + "."
        for name, value in classifier.network.state_dict().items():
            in_head = name.startswith(head)
            prefix = f"average.heads.{member}." if in_head else f"members.{member}."
            weights[prefix + (name.removeprefix(head) if in_head else name)] = value
    return weights


def _views(tta: Sequence[str]) -> list[str]:
    """Return the names of the views, the unchanged image first."""
    for name in tta:
        if name not in TTA:
            raise EnsembleError(f"Expected {' or '.join(TTA)} for test-time augmentation, found '{printable(name)}'.")
    return [IDENTITY, *dict.fromkeys(view for name in tta for view in TTA[name])]


def _check_alike(classifiers: Sequence[Classifier], settings: tuple[str, ...], minimum: int = 2) -> Classifier:
    """Return the first classifier; raises `EnsembleError` if another differs in classes or preprocessing."""
    if len(classifiers) < minimum:
        raise EnsembleError("Expected at least two classifiers, or one with test-time augmentation.")
    first = classifiers[0]
    for classifier in classifiers[1:]:
        if classifier.classes != first.classes:
            raise EnsembleError("The classifiers have different classes: all members need the same classes.")
        for name in settings:
            expected, value = getattr(first.preprocess, name), getattr(classifier.preprocess, name)
            if value != expected:
                raise EnsembleError(
                    f"The classifiers have different preprocessing ({name}: {expected} and {value}): train them with "
                    "the same [preprocess] section."
                )
    return first

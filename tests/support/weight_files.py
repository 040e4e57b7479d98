"""Weights files for tests, and helpers to compare weights."""

import io

import torch

from tellapart.models import MODELS


def torch_bytes(content, **options):
    """Return the bytes that torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def write(path, content):
    path.write_bytes(content)
    return path


def equal_weights(weights, expected):
    return weights.keys() == expected.keys() and all(
        torch.equal(weights[key], value) for key, value in expected.items()
    )


def randomize_statistics(network):
    """Set the statistics of norms to random values, so that a missing or swapped value changes the output."""
    for key, value in network.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif key.endswith("running_mean"):
            value.normal_(0, 0.1)


def save_torchvision_weights(torchvision_models, name, folder, seed=0):
    """Save random weights of a torchvision network, in the form of its published weights; return the path."""
    torch.manual_seed(seed)
    options = {"init_weights": True} if MODELS[name].aux else {}
    network = torchvision_models.get_model(name, weights=None, **options)
    for key, value in network.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.05)  # statistics that a batch of images would not have
    path = folder / f"{name}.pth"
    torch.save(network.state_dict(), path)
    return path

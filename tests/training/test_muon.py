"""Muon and AdamW compared with PyTorch; the singular values of Muon; every optimizer resumed bit for bit."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from tellapart.models import create
from tellapart.recipe.recipe import Recipe
from tellapart.training.adamw import AdamW
from tellapart.training.checkpointing.store import optimizer_tensors, restore_optimizer
from tellapart.training.muon import Muon, hidden_matrices, orthogonalize
from tellapart.training.optimizers import OPTIMIZERS, make_optimizer
from tellapart.training.schedules import set_learning_rate

IMAGES, LABELS = load_digits(return_X_y=True)
PIXELS = torch.from_numpy(IMAGES / 8 - 1).float().view(-1, 1, 8, 8)
TARGETS = torch.from_numpy(LABELS).long()


def network():
    torch.manual_seed(0)
    return create("small_resnet", 10, 1).to(memory_format=torch.channels_last)


def train(net, optimizer, first, end, batch=64):
    losses = []
    for number in range(first, end):
        rows = slice(number * batch % 1600, number * batch % 1600 + batch)
        loss = F.cross_entropy(net(PIXELS[rows].to(memory_format=torch.channels_last)), TARGETS[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (32, 32), (1, 9), (16, 8, 3, 3)])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_updates_equal_those_of_torch_muon(shape, bfloat16):
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(shape, generator=generator)
    ours = nn.Parameter(start.clone())
    theirs = nn.Parameter(start.flatten(1).clone())
    group = {"params": [ours], "lr": 0.01, "weight_decay": 0.1, "orthogonal": True, "bfloat16": bfloat16}
    settings = {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = Muon([group]), torch.optim.Muon([theirs], **settings)
    for _ in range(4):
        before = theirs.detach().clone()
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.flatten(1).clone()
        for optimizer in optimizers:
            optimizer.step()
        step = (theirs.detach() - before).norm()
        # PyTorch multiplies in bfloat16, with 8 bits; with bfloat16 here too, the results are nearly equal.
        assert (ours.detach().flatten(1) - theirs.detach()).norm() < (2e-3 if bfloat16 else 5e-2) * step
        ours.data = theirs.detach().clone().view(shape)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_updates_equal_those_of_torch_adamw(fused, decay):
    net = network()
    twin = copy.deepcopy(net)
    ours = AdamW([{"params": list(net.parameters()), "lr": 0.01, "weight_decay": decay}], fused=fused)
    theirs = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=decay, fused=fused)
    assert train(net, ours, 0, 5) == train(twin, theirs, 0, 5)


def test_only_sgd_imports_the_compiler_of_torch():
    script = """
import sys, torch
from tellapart.models import create
from tellapart.recipe.recipe import Recipe
from tellapart.training.optimizers import make_optimizer
for name in ("adam", "adamw", "muon"):
    network = create("lenet5", 10, 1)
    optimizer = make_optimizer(network, Recipe().with_settings(optimizer=name), fine_tuning=False)
    optimizer.zero_grad()
    network(torch.zeros(2, 1, 32, 32)).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("shape", [(24, 90), (90, 24), (40, 40)])
def test_singular_values_become_close_to_one_and_singular_vectors_stay(shape):
    torch.manual_seed(3)
    matrix = torch.randn(shape)
    result = orthogonalize(matrix)
    values = torch.linalg.svdvals(result)
    assert values[:-1].min() > 0.6
    assert values.max() < 1.25
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    diagonal = u.T @ result @ v.T
    assert (diagonal - torch.diag(diagonal.diagonal())).abs().max() < 1e-3
    assert torch.equal(orthogonalize(torch.zeros(shape)), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(64, 576), (64, 32, 3, 3), (128, 64)])
def test_updates_have_the_scale_of_adamw(shape):
    torch.manual_seed(4)
    parameter = nn.Parameter(torch.zeros(shape))
    parameter.grad = torch.randn(shape)
    Muon([{"params": [parameter], "lr": 1.0, "orthogonal": True}]).step()
    assert 0.1 < parameter.detach().square().mean().sqrt() < 0.3  # 0.2 to 0.4 is usual for AdamW (Liu et al.)


def test_other_parameters_are_trained_by_adamw():
    net = network()
    twin = copy.deepcopy(net)
    settings = {"learning_rate": 0.01, "weight_decay": 0.05}
    recipes = Recipe().with_settings(optimizer="muon", **settings), Recipe().with_settings(**settings)
    hidden = {id(p) for p in hidden_matrices(net)}
    for trained, recipe in zip((net, twin), recipes, strict=True):
        optimizer = make_optimizer(trained, recipe, fine_tuning=False)
        set_learning_rate(optimizer, "cosine", 0.3)
        train(trained, optimizer, 0, 1)
    for (name, ours), theirs in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs) == (id(ours) not in hidden), name


@pytest.mark.parametrize(
    ("model", "arguments"),
    [("small_resnet", {}), ("efficientnet_lite0", {}), ("googlenet", {"aux": True}), ("googlenet", {"aux": False})],
)
def test_hidden_matrices_exclude_the_first_layer_heads_and_depthwise_filters(model, arguments):
    net = create(model, 10, 3, **arguments)
    hidden = {id(p) for p in hidden_matrices(net)}
    weights = [m.weight for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    excluded = [weight for weight in weights if id(weight) not in hidden]
    heads = [m for m in (net.head, *(getattr(net, name) for name in net.auxiliary)) if m is not None]
    expected = [weights[0], *(p for m in heads for p in m.parameters() if p.ndim > 1)]
    expected += [m.weight for m in net.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1]
    assert {id(w) for w in excluded} == {id(w) for w in expected}
    assert all(p.ndim > 1 for p in net.parameters() if id(p) in hidden)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_resumed_from_saved_tensors_is_equal_bit_for_bit(optimizer, precision):
    recipe = Recipe().with_settings(optimizer=optimizer, precision=precision)
    net = network()
    whole = make_optimizer(net, recipe, fine_tuning=False)
    train(net, whole, 0, 3)
    copied = copy.deepcopy(net)
    saved = safetensors.torch.save({name: value.contiguous() for name, value in optimizer_tensors(whole).items()})
    train(net, whole, 3, 6)
    resumed = make_optimizer(copied, recipe, fine_tuning=False)
    restore_optimizer(resumed, safetensors.torch.load(saved))
    train(copied, resumed, 3, 6)
    for (name, value), other in zip(net.state_dict().items(), copied.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fused_and_unfused_updates_are_close(optimizer, monkeypatch):
    weights = []
    for devices in (("cpu",), ()):
        monkeypatch.setattr("tellapart.training.optimizers._FUSED_ON", devices)
        net = network()
        train(net, make_optimizer(net, Recipe().with_settings(optimizer=optimizer), fine_tuning=False), 0, 1)
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradients_may_have_another_memory_layout_than_weights(optimizer):
    weights = []
    for contiguous in (False, True):
        net = network()
        updater = make_optimizer(net, Recipe().with_settings(optimizer=optimizer), fine_tuning=False)
        F.cross_entropy(net(PIXELS[:64]), TARGETS[:64]).backward()
        for parameter in net.parameters() if contiguous else ():
            parameter.grad = parameter.grad.contiguous()
        updater.step()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in net.parameters()]))
    assert torch.equal(*weights)


def test_muon_learns_digits_with_the_learning_rate_of_adamw():
    net = network()
    optimizer = make_optimizer(net, Recipe().with_settings(optimizer="muon"), fine_tuning=False)
    losses = train(net, optimizer, 0, 50)
    assert np.mean(losses[-5:]) < 0.3 < losses[0]
    net.eval()
    with torch.no_grad():
        assert (net(PIXELS[1600:]).argmax(dim=1) == TARGETS[1600:]).float().mean() > 0.85


def test_fine_tuning_has_a_lower_learning_rate_for_the_backbone():
    net = network()
    recipe = Recipe().with_settings(optimizer="muon", learning_rate=0.01, backbone_lr_mult=0.1)
    optimizer = make_optimizer(net, recipe, fine_tuning=True)
    peaks = {id(p): group["peak"] for group in optimizer.param_groups for p in group["params"]}
    head = {id(p) for p in net.head.parameters()}
    for p in net.parameters():
        assert peaks[id(p)] == pytest.approx(0.01 if id(p) in head else 0.001)
    hidden = {id(p) for p in hidden_matrices(net)}
    for group in optimizer.param_groups:
        assert {id(p) in hidden for p in group["params"]} == {group["orthogonal"]}

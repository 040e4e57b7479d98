import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from networks import networks
from tellapart.errors import WrongInput
from tellapart.models import MODELS, create
from tellapart.models.published import FACTS
from tellapart.models.sequential import Layered
from tellapart.models.summary import summarise

QUICK = {
    "simple_cnn",
    "small_resnet",
    "lenet5",
    "alexnet",
    "vgg11",
    "vgg16_bn",
    "googlenet",
    "inception_v3",
    "resnet18",
}
QUICK |= {"resnet50", "resnext50_32x4d", "resnet20", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"}
QUICK |= {"efficientnet_b0", "efficientnet_lite0", "convnext_tiny"}  # one or more of each family

TRAIN = """
import re, resource, torch
from torch.nn import functional as F
from tellapart.models import create

F.conv2d(torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3, requires_grad=True)).sum().backward()
with open("/proc/self/clear_refs", "w") as peak:  # a child inherits the peak of the process that forked it
    peak.write("5")
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
network = create("resnet18").train()
optimizer = torch.optim.AdamW(network.parameters())
images = torch.randn(16, 3, 96, 96)
for _ in range(2):
    loss = F.cross_entropy(network(images), torch.zeros(16, dtype=torch.long))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024 - before)
"""


def build(name, **arguments):
    entry = MODELS[name]
    with torch.device("meta"):
        return create(name, entry.classes, entry.channels, **(entry.arguments(entry.size) | arguments))


def summary_of(name, batch=2, **arguments):
    return summarise(build(name, **arguments), name, MODELS[name].size, batch)


def conv_or_linear_macs(module, shape):
    if isinstance(module, nn.Conv2d):
        return math.prod(shape) * module.weight[0].numel()
    return math.prod(shape) * module.in_features if isinstance(module, nn.Linear) else 0


@pytest.mark.parametrize("name", networks(slow=set(MODELS) - set(QUICK)))
def test_parameters_and_macs_are_the_known_ones_and_those_of_the_rows(name):
    network = build(name, **({"aux": False} if name == "googlenet" else {}))
    found = summarise(network, name, MODELS[name].size, 2)
    assert (found.parameters, found.macs) == (FACTS[name].parameters, FACTS[name].macs)
    assert (found.channels, found.classes) == (MODELS[name].channels, MODELS[name].classes)
    assert sum(row.parameters for row in found.layers) == found.parameters
    assert sum(row.macs for row in found.layers if not row.training_only) == found.macs
    assert all(row.shape for row in found.layers)
    for row in found.layers:
        assert row.macs == conv_or_linear_macs(network.get_submodule(row.name), row.shape), row


def test_shapes_are_in_the_order_of_execution():
    rows = {row.name: row for row in summary_of("resnet50").layers}
    assert list(rows)[:4] == ["conv1", "bn1", "relu", "maxpool"]
    assert list(rows)[-1] == "fc"
    assert rows["conv1"].shape == (64, 112, 112)
    assert (rows["conv1"].kind, rows["conv1"].parameters) == ("Conv2d", 9408)
    assert rows["layer4.2.bn3"].shape == (2048, 7, 7)
    assert rows["layer4.2.relu"].shape == (2048, 7, 7)  # called three times: the last
    assert rows["fc"].shape == (1000,)


def test_parameters_of_no_leaf_have_a_row_of_their_own():
    rows = {row.name: row for row in summary_of("convnext_tiny").layers}
    block = rows["features.1.0"]
    assert (block.kind, block.shape, block.parameters, block.macs) == ("Block", (96, 56, 56), 96, 0)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_listed_and_not_in_the_macs(name):
    found = summary_of(name)
    extra = [row for row in found.layers if row.training_only]
    assert {row.name.split(".")[0] for row in extra} == set(build(name).auxiliary)
    assert sum(row.macs for row in extra) > 0
    assert found.macs == FACTS[name].macs
    assert sum(row.parameters for row in found.layers) == found.parameters
    without = summary_of(name, aux=False)
    assert found.memory["activations"] > without.memory["activations"]


def test_activations_of_a_small_network_are_counted_by_hand():
    with torch.device("meta"):
        network = Layered(5, 3, [{"type": "conv", "width": 4}, {"type": "flatten"}], 8)
    memory = summarise(network, "layered", 8, 10).memory
    # The pictures, what the convolution gives, the log-probabilities, and cross entropy's labels and sum of weights.
    assert memory["activations"] == 10 * 4 * (3 * 64 + 4 * 64 + 5) + 10 * 8 + 4
    parameters = 4 * sum(p.numel() for p in network.parameters())
    assert memory["weights"] == memory["gradients"] == parameters
    assert memory["optimizer"] == memory["average"] == 2 * parameters
    assert memory["total"] == 6 * parameters + memory["activations"]


@pytest.mark.parametrize("name", ["resnet18", "vgg11", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_activations_grow_with_the_batch_and_nothing_else_does(name):
    two, four, eight = (summary_of(name, batch).memory for batch in (2, 4, 8))
    assert eight["activations"] - four["activations"] == 2 * (four["activations"] - two["activations"])
    assert eight["activations"] == pytest.approx(4 * two["activations"], rel=0.01)
    assert {key for key in two if two[key] != eight[key]} == {"activations", "total"}


def test_checkpointing_takes_less_than_half_of_the_activations():
    plain, network = summary_of("resnet110", 32), build("resnet110")
    network.checkpoint_activations = True
    sparing = summarise(network, "resnet110", 32, 32)
    assert sparing.memory["activations"] < plain.memory["activations"] / 2
    # The segment that is computed anew is in it: four of the 18 blocks of the widest stage, at 6 maps each.
    assert sparing.memory["activations"] > 32 * 4 * (4 * 4 * 16 * 32 * 32)
    assert sparing.layers == plain.layers


def test_it_becomes_json():
    found = summary_of("simple_cnn")
    document = json.loads(json.dumps(found.to_json()))
    assert document["flops"] == 2 * found.macs == 2 * document["macs"]
    assert document["layers"][0] == {
        "name": "features.0",
        "kind": "Conv2d",
        "shape": [32, 30, 30],
        "parameters": 896,
        "macs": 777_600,
        "training_only": False,
    }


def test_what_cannot_be_summarised_is_said():
    with pytest.raises(WrongInput, match="at least 1 picture, not 0"):
        summary_of("lenet5", 0)
    with pytest.raises(WrongInput, match="batches of 1: Expected more than 1 value per channel"):
        summary_of("inception_v3", 1)
    with pytest.raises(WrongInput, match="built for sides of 32 pixels"):
        summarise(build("lenet5"), "lenet5", 64)
    with pytest.raises(ValueError, match="meta"):
        summarise(create("lenet5", 10, 1), "lenet5", 32)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_what_training_takes():
    # Large blocks go back to the system at once, so that what is measured are tensors and not holes between them.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run([sys.executable, "-c", TRAIN], env=environment, capture_output=True, text=True, check=True)
    memory = summarise(build("resnet18"), "resnet18", 96, 16).memory
    assert 0.6 < (memory["total"] - memory["average"]) / int(done.stdout) < 1.6

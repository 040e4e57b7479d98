"""The summary of a network against published counts, counts by hand, and the memory of training."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from networks import networks
from tellapart.errors import InputShapeError
from tellapart.models import MODELS, create
from tellapart.models.published_results import PUBLISHED
from tellapart.models.sequential import SequentialNetwork
from tellapart.models.summary import summarize

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
QUICK |= {"efficientnet_b0", "efficientnet_lite0", "convnext_tiny"}  # at least one of each family

TRAIN = """
import re, resource, torch
from torch.nn import functional as F
from tellapart.models import create

F.conv2d(torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3, requires_grad=True)).sum().backward()
with open("/proc/self/clear_refs", "w") as peak:  # the peak of the parent process is inherited
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
    return summarize(build(name, **arguments), name, MODELS[name].size, batch)


def conv_or_linear_macs(module, shape):
    if isinstance(module, nn.Conv2d):
        return math.prod(shape) * module.weight[0].numel()
    return math.prod(shape) * module.in_features if isinstance(module, nn.Linear) else 0


@pytest.mark.parametrize("name", networks(slow=set(MODELS) - set(QUICK)))
def test_parameters_and_macs_equal_the_published_ones_and_the_sum_of_the_rows(name):
    network = build(name, **({"aux": False} if name == "googlenet" else {}))
    summary = summarize(network, name, MODELS[name].size, 2)
    assert (summary.parameters, summary.macs) == (PUBLISHED[name].parameters, PUBLISHED[name].macs)
    assert (summary.channels, summary.classes) == (MODELS[name].channels, MODELS[name].classes)
    assert sum(row.parameters for row in summary.layers) == summary.parameters
    assert sum(row.macs for row in summary.layers if not row.training_only) == summary.macs
    assert all(row.shape for row in summary.layers)
    for row in summary.layers:
        assert row.macs == conv_or_linear_macs(network.get_submodule(row.name), row.shape), row


def test_rows_are_in_the_order_of_execution():
    rows = {row.name: row for row in summary_of("resnet50").layers}
    assert list(rows)[:4] == ["conv1", "bn1", "relu", "maxpool"]
    assert list(rows)[-1] == "fc"
    assert rows["conv1"].shape == (64, 112, 112)
    assert (rows["conv1"].kind, rows["conv1"].parameters) == ("Conv2d", 9408)
    assert rows["layer4.2.bn3"].shape == (2048, 7, 7)
    assert rows["layer4.2.relu"].shape == (2048, 7, 7)  # the last of three calls
    assert rows["fc"].shape == (1000,)


def test_a_module_with_children_has_a_row_for_its_own_parameters():
    rows = {row.name: row for row in summary_of("convnext_tiny").layers}
    block = rows["features.1.0"]
    assert (block.kind, block.shape, block.parameters, block.macs) == ("Block", (96, 56, 56), 96, 0)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_have_rows_but_do_not_count_in_the_macs(name):
    summary = summary_of(name)
    auxiliary = [row for row in summary.layers if row.training_only]
    assert {row.name.split(".")[0] for row in auxiliary} == set(build(name).auxiliary)
    assert sum(row.macs for row in auxiliary) > 0
    assert summary.macs == PUBLISHED[name].macs
    assert sum(row.parameters for row in summary.layers) == summary.parameters
    without = summary_of(name, aux=False)
    assert summary.memory["activations"] > without.memory["activations"]


def test_memory_of_a_small_network_equals_a_count_by_hand():
    with torch.device("meta"):
        network = SequentialNetwork(5, 3, [{"type": "conv", "width": 4}, {"type": "flatten"}], 8)
    memory = summarize(network, "sequential", 8, 10).memory
    # The images, the output of the convolution, the log-probabilities, and the labels and sum of weights of the loss.
    assert memory["activations"] == 10 * 4 * (3 * 64 + 4 * 64 + 5) + 10 * 8 + 4
    parameters = 4 * sum(p.numel() for p in network.parameters())
    assert memory["weights"] == memory["gradients"] == parameters
    assert memory["optimizer"] == memory["average"] == 2 * parameters
    assert memory["total"] == 6 * parameters + memory["activations"]


@pytest.mark.parametrize("name", ["resnet18", "vgg11", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_only_activations_grow_with_the_batch(name):
    two, four, eight = (summary_of(name, batch).memory for batch in (2, 4, 8))
    assert eight["activations"] - four["activations"] == 2 * (four["activations"] - two["activations"])
    assert eight["activations"] == pytest.approx(4 * two["activations"], rel=0.01)
    assert {key for key in two if two[key] != eight[key]} == {"activations", "total"}


def test_activation_checkpointing_takes_less_than_half_of_the_activations():
    plain, network = summary_of("resnet110", 32), build("resnet110")
    network.activation_checkpointing = True
    checkpointed = summarize(network, "resnet110", 32, 32)
    assert checkpointed.memory["activations"] < plain.memory["activations"] / 2
    # It includes the recomputed segment: four of the 18 blocks of the first stage, with 6 maps each.
    assert checkpointed.memory["activations"] > 32 * 4 * (4 * 4 * 16 * 32 * 32)
    assert checkpointed.layers == plain.layers


def test_to_json():
    summary = summary_of("simple_cnn")
    document = json.loads(json.dumps(summary.to_json()))
    assert document["flops"] == 2 * summary.macs == 2 * document["macs"]
    assert document["layers"][0] == {
        "name": "features.0",
        "kind": "Conv2d",
        "shape": [32, 30, 30],
        "parameters": 896,
        "macs": 777_600,
        "training_only": False,
    }


def test_invalid_arguments_raise_errors():
    for name, batch in (("lenet5", 0), ("inception_v3", 1)):  # batch norm after global pooling requires two images
        with pytest.raises(InputShapeError) as error:
            summary_of(name, batch)
        assert str(error.value).startswith("batch: ")
    with pytest.raises(InputShapeError) as error:
        summarize(build("lenet5"), "lenet5", 64)
    assert "32 x 32" in str(error.value)
    with pytest.raises(ValueError, match="meta"):
        summarize(create("lenet5", 10, 1), "lenet5", 32)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_equals_that_of_training():
    # Large blocks are returned to the system at once, so that the measurement excludes fragmentation.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    process = subprocess.run([sys.executable, "-c", TRAIN], env=environment, capture_output=True, text=True, check=True)
    memory = summarize(build("resnet18"), "resnet18", 96, 16).memory
    assert 0.6 < (memory["total"] - memory["average"]) / int(process.stdout) < 1.6

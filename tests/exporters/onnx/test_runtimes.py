"""Exported files give their golden probabilities in runtimes other than ONNX Runtime."""

import json

import numpy as np
import openvino
import pytest
from onnx.reference import ReferenceEvaluator
from PIL import Image


@pytest.fixture(scope="module")
def golden(exported):
    """The golden cases of a file: the tolerance, the images of any size, the resized ones, and the probabilities."""
    folder = exported.with_name(f"{exported.name}.golden")
    document = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    images = [np.asarray(Image.open(folder / case["path"])) for case in document["cases"]]
    resized = np.stack([np.asarray(Image.open(folder / case["resized"])) for case in document["cases"]])
    return document["tolerance"], images, resized, [case["probabilities"] for case in document["cases"]]


def open_openvino(path):
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda feeds: compiled(feeds)["probabilities"]


def open_reference(path):
    evaluator = ReferenceEvaluator(str(path))
    return lambda feeds: evaluator.run(["probabilities"], feeds)[0]


@pytest.mark.parametrize("open_runtime", [open_openvino, open_reference])
def test_golden_cases_by_both_inputs(exported, golden, open_runtime):
    tolerance, images, resized, expected = golden
    infer = open_runtime(exported)
    by_image = [infer({"image": image, "images": resized[:0]})[0] for image in images]
    np.testing.assert_allclose(by_image, expected, atol=tolerance)
    by_images = infer({"image": np.zeros((0, 0, 3), np.uint8), "images": resized})
    np.testing.assert_allclose(by_images, expected, atol=tolerance)

"""Which images are captured, and that they come back as labelled training images."""

import csv
import json
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

from encoding import encode
from folders import run_cli
from servers import wait_for
from tellapart.data.image import decode
from tellapart.data.sources import load_dataset
from tellapart.errors import ServeError
from tellapart.serving.capture.capture import capture_reason
from tellapart.serving.capture.export_labelled import export_labelled
from tellapart.serving.capture.store import CaptureStore


def noise_image(seed):
    return encode(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)), "png")


def test_reasons_to_capture():
    confident = {"in_distribution": True, "prediction_set": ["cat"], "probability": 0.6}
    assert capture_reason(confident) is None
    assert capture_reason(confident | {"prediction_set": ["cat", "dog"]}) == "uncertain"
    assert capture_reason(confident | {"in_distribution": False}) == "out_of_distribution"
    assert capture_reason(confident | {"prediction_set": None, "in_distribution": None}) == "uncertain"


def test_captured_images_come_back_as_training_images(start_server, run, where, tmp_path, capsys):
    server = start_server(capture=where)
    unusual = [noise_image(seed) for seed in range(8)]
    unusual = [image for image in unusual if server.ask(body=image)[1]["in_distribution"] is False]
    assert len(unusual) > 2
    for image in unusual:
        server.ask(body=image)
        time.sleep(0.6)
    wait_for(lambda: server.ask("/v1/captures")[1]["unlabelled"] > 1)
    server.ask(body=sorted((run.directory.parent / "images").rglob("*.png"))[0].read_bytes())
    captures = server.ask("/v1/captures")[1]
    images = sorted(captures["images"], key=lambda image: image["reason"] != "out_of_distribution")
    assert {image["reason"] for image in images} <= {"out_of_distribution", "uncertain"}
    assert captures["classes"] == {"model": list(run.classifier.classes)}
    first, second, *others = [image["id"] for image in images]
    content = urllib.request.urlopen(f"{server.address}/v1/captures/{first}").read()
    assert any(np.array_equal(decode(content), decode(image)) for image in unusual)
    check_labels_are_validated(server, first)
    assert server.ask(f"/v1/captures/{second}", '{"label": " 7 "}', "PUT")[0] == 204
    for image_id in others:
        assert server.ask(f"/v1/captures/{image_id}", method="DELETE")[0] == 204
    assert server.ask("/v1/captures")[1]["labelled"] == 2
    identity = server.ask("/v1/models")[1]["models"][0]["model"]
    assert server.stop() == 0
    check_counts(where, f"model {identity}", len(unusual))
    code, out, _ = run_cli(capsys, "export-labels", where, tmp_path / "new")
    assert (code, out.strip()) == (0, str(tmp_path / "new" / "manifest.csv"))
    with open(tmp_path / "new" / "manifest.csv", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["7", "noise"]
    assert load_dataset(tmp_path / "new" / "manifest.csv").classes == ("7", "noise")
    code, _, err = run_cli(capsys, "export-labels", where, tmp_path / "new")
    assert code == 1
    assert str(tmp_path / "new") in err


def check_labels_are_validated(server, image_id):
    for label, status in (("noise", 204), ("", 422), (" ", 422), ("a\nb", 422), ("x" * 201, 422), (7, 422)):
        assert server.ask(f"/v1/captures/{image_id}", json.dumps({"label": label}), "PUT")[0] == status
    unknown = server.ask(f"/v1/captures/{'0' * 64}", '{"label": "noise"}', "PUT")
    assert (unknown[0], unknown[1]["code"]) == (404, "unknown_capture")
    invalid_id = server.ask("/v1/captures/nothing", method="DELETE")
    assert (invalid_id[0], invalid_id[1]["code"]) == (422, "invalid_request")
    large = server.ask(f"/v1/captures/{image_id}", b"{" * 5000, "PUT")
    assert (large[0], large[1]["code"]) == (413, "body_too_large")


def check_counts(where, model, at_least):
    store = CaptureStore(where)
    for kind in ("class", "distance"):
        assert sum(store.sum_counts(model, kind, 0).values()) >= at_least
    store.close()


def test_exporting_nothing_is_an_error(tmp_path):
    with pytest.raises(ServeError) as error:
        export_labelled(str(tmp_path / "missing"), tmp_path / "out")
    assert str(tmp_path / "missing") in str(error.value)
    CaptureStore(str(tmp_path / "store")).close()
    with pytest.raises(ServeError) as error:
        export_labelled(str(tmp_path / "store"), tmp_path / "out")
    assert str(tmp_path / "store") in str(error.value)
    assert not (tmp_path / "out").exists()

"""A candidate classifies the same images, and labels of the disagreements decide which model is better."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

import tellapart
from folders import run_cli
from servers import wait_for
from tellapart.errors import ServeError
from tellapart.progress import Progress
from tellapart.serving.server import ServerSettings, serve


@pytest.fixture(scope="module")
def candidate(run, tmp_path_factory):
    """The file of a model whose class names are shifted by one: it disagrees on every image."""
    folder, classes = tmp_path_factory.mktemp("candidate"), run.classifier.classes
    replace(run.classifier, classes=(*classes[1:], classes[0])).save(folder / "candidate.safetensors")
    return tellapart.export(folder / "candidate.safetensors").path


def test_disagreements_are_compared_labelled_and_decided(start_server, run, where, exported, candidate):
    paths = sorted((run.directory.parent / "images").rglob("*.png"))
    server = start_server(capture=where, shadow={"model": str(candidate)})
    seen = {}

    def is_stored():
        for path in paths:
            status, prediction, _ = server.ask(body=path.read_bytes())
            assert status == 200
            assert prediction["model"] == server.ask("/v1/model")[1]["model"]
        images = server.ask("/v1/captures")[1]["images"]
        seen.update({image["id"]: image for image in images if image["reason"] == "disagreement"})
        return len(seen) >= 9

    wait_for(is_stored, 120)
    metrics = server.metrics()
    assert metrics[("tellapart_shadow_predictions_total", "model", "disagree")] >= 9
    assert ("tellapart_shadow_predictions_total", "model", "agree") not in metrics
    for image in seen.values():
        body = json.dumps({"label": image["predicted_label"]})
        assert server.ask(f"/v1/captures/{image['id']}", body, "PUT")[0] == 204
    wait_for(lambda: server.ask("/v1/status")[1]["candidates"].get("model", {}).get("labelled", 0) >= 9, 60)
    comparison = server.ask("/v1/status")[1]["candidates"]["model"]
    assert comparison["compared"] == comparison["disagreements"] >= 9
    assert (comparison["only_candidate"], comparison["better"]) == (0, "current")
    assert comparison["only_current"] == comparison["labelled"]
    assert comparison["difference"]["high"] < 0
    assert server.ask("/v1/models")[1]["models"][0]["name"] == "model"
    assert len(server.ask("/v1/models")[1]["models"]) == 1
    assert server.ask("/v1/predict?model=model%20(candidate)", paths[0].read_bytes())[0] == 404
    assert server.stop() == 0
    assert server.tracebacks() == 0


def test_clients_do_not_wait_for_a_candidate(start_server, candidate, photos, tmp_path):
    server = start_server(capture=str(tmp_path / "captured"), shadow={"model": str(candidate)})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda path: server.ask(body=path.read_bytes()), photos * 8))
    assert {status for status, _, _ in answers} == {200}
    compared = sum(value for key, value in server.metrics().items() if key[0] == "tellapart_shadow_predictions_total")
    assert 0 < compared < len(answers)


@pytest.mark.parametrize(
    ("shadow", "capture"), [({"other": "candidate.onnx"}, "captured"), ({"model": "candidate.onnx"}, None)]
)
def test_a_candidate_needs_a_model_and_a_store(exported, tmp_path, monkeypatch, shadow, capture):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ServeError):
        serve({"model": exported}, ServerSettings(shadow=shadow, capture=capture), Progress())


def test_the_command_refuses_a_candidate_without_a_store(exported, candidate, capsys):
    code, _, err = run_cli(capsys, "serve", exported, "--shadow", f"model={candidate}")
    assert code == 1
    assert "--capture" in err

"""Liveness, readiness, the description of the model, and metrics."""

import pytest


def test_liveness_and_readiness(server):
    assert server.ask("/healthz")[:2] == (200, {"status": "alive"})
    assert server.ask("/readyz")[:2] == (200, {"status": "ready", "outdated_models": 0})


def test_the_model_is_described(server, run):
    description = server.ask("/v1/model")[1]
    assert description["classes"] == list(run.classifier.classes)
    assert description["metrics"]["accuracy"] == run.metrics["test"]["accuracy"]
    assert server.ask("/v1/models")[1]["models"] == [
        {"name": "model", "model": description["model"], "title": "images", "is_outdated": False}
    ]


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/model", "/openapi.json", "/page.js"])
def test_head_has_the_headers_of_get(server, path):
    status, content, headers = server.ask(path, method="HEAD")
    assert (status, content) == (200, "")
    assert headers["content-type"] == server.ask(path)[2]["content-type"]
    assert server.ask("/v1/predict", method="HEAD")[0] == 405


def test_metrics_name_classes_only_with_the_token(start_server, photos):
    server = start_server(token="a-long-enough-token")
    bearer = {"authorization": "Bearer a-long-enough-token"}
    assert server.ask(body=photos[0].read_bytes(), **bearer)[0] == 200
    assert "digit" not in server.ask("/metrics")[1]
    assert "digit" in server.ask("/metrics", **bearer)[1]
    assert server.ask("/metrics", authorization="Bearer of-a-wrong-token")[0] == 401


def test_metrics_count_requests_and_predictions(server, photos):
    before = server.metrics()
    server.ask(body=photos[0].read_bytes())
    server.ask(body=b"text")
    after = server.metrics()
    increase = {name: after[name] - before.get(name, 0) for name in after}
    assert increase[("tellapart_requests_total", "200")] == increase[("tellapart_requests_total", "415")] == 1
    assert increase[("tellapart_request_errors_total", "not_an_image")] == 1
    assert increase[("tellapart_request_duration_seconds_count",)] == 2
    for name in ("batch_size", "queue_duration_seconds", "decode_duration_seconds", "inference_duration_seconds"):
        assert increase[(f"tellapart_{name}_count",)] == 1
    assert sum(value for name, value in increase.items() if name[0] == "tellapart_predictions_total") == 1
    assert after[("tellapart_model_outdated", "model")] == 0
    assert ("tellapart_model_info", server.ask("/v1/model")[1]["model"], "model") in after
    assert after[("process_resident_memory_bytes",)] > 10**7

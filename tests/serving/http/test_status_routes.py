"""Liveness, readiness, the description of the model, and metrics."""


def test_liveness_and_readiness(server):
    assert server.ask("/healthz")[:2] == (200, {"status": "alive"})
    assert server.ask("/readyz")[:2] == (200, {"status": "ready"})


def test_the_model_is_described(server, run):
    description = server.ask("/v1/model")[1]
    assert description["classes"] == list(run.classifier.classes)
    assert description["metrics"]["accuracy"] == run.metrics["test"]["accuracy"]


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

"""Real responses have exactly the fields of their models, and the OpenAPI document names the models."""

import json

import numpy as np
import pytest
from PIL import Image

from encoding import encode
from servers import form_body, wait_for
from tellapart.serving.http import schemas


@pytest.fixture(scope="module")
def noise():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    return encode(Image.fromarray(pixels), "png")


def check(model, document):
    """Fail unless a document has all fields of a model, of the right types, and no others."""
    validated = model.model_validate_json(json.dumps(document), strict=True)
    assert json.loads(validated.model_dump_json()) == document


def test_responses_have_the_fields_of_their_models(server, photos):
    photo = photos[0].read_bytes()
    body, media_type = form_body({"a.jpg": photo, "b.jpg": photo[:2000]})
    check(schemas.PredictionResponse, server.ask(body=photo)[1])
    check(schemas.FormPredictions, server.ask(body=body, content_type=media_type)[1])
    check(schemas.ProblemDocument, server.ask(body=b"text")[1])
    check(schemas.ModelDescription, server.ask("/v1/model")[1])
    check(schemas.Liveness, server.ask("/healthz")[1])
    check(schemas.Readiness, server.ask("/readyz")[1])
    check(schemas.ServerStatus, server.ask("/v1/status")[1])


def test_responses_about_captured_images_have_the_fields_of_their_models(start_server, tmp_path, noise):
    server = start_server(capture=str(tmp_path / "captured"))
    server.ask(body=noise)
    wait_for(lambda: server.ask("/v1/captures")[1]["images"])
    check(schemas.CapturedImages, server.ask("/v1/captures")[1])
    check(schemas.ServerStatus, server.ask("/v1/status")[1])


MODELS = {
    ("/v1/predict", "post"): {"PredictionResponse", "FormPredictions"},
    ("/v1/model", "get"): {"ModelDescription"},
    ("/v1/status", "get"): {"ServerStatus"},
    ("/v1/captures", "get"): {"CapturedImages"},
    ("/healthz", "get"): {"Liveness"},
    ("/readyz", "get"): {"Readiness"},
}


def test_the_openapi_document_has_the_models(start_server, tmp_path):
    document = start_server(capture=str(tmp_path / "captured")).ask("/openapi.json")[1]
    components = document["components"]["schemas"]
    for (path, method), names in MODELS.items():
        responses = document["paths"][path][method]["responses"]
        schema = responses["200"]["content"]["application/json"]["schema"]
        references = {choice["$ref"].rpartition("/")[2] for choice in schema.get("anyOf", [schema])}
        assert references == names
        assert names <= components.keys()
    problem = {"$ref": "#/components/schemas/ProblemDocument"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    schemas_by_type = {name: media["schema"] for name, media in response["content"].items()}
                    assert schemas_by_type == {"application/problem+json": problem}, (path, method, status)
    assert "code" in components["ProblemDocument"]["required"]

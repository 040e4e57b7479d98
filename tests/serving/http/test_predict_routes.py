"""Predictions over HTTP equal those of Python, and every error is a problem document."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

import tellapart
from costly_images import COSTLY
from encoding import encode
from servers import form_body


def test_predictions_equal_those_of_python(server, exported, photos, small_images):
    classifier = tellapart.load(exported)
    for path in (*photos[:5], *small_images[:5]):
        status, prediction, _ = server.ask(body=path.read_bytes(), content_type="image/jpeg")
        assert status == 200
        expected = classifier.predict(path).to_json()
        for name in ("label", "index", "prediction_set", "in_distribution"):
            assert prediction[name] == expected[name]
        assert dict(prediction["top"]) == pytest.approx(dict(expected["top"]), abs=1e-5)
    assert len(server.ask("/v1/predict?top=2", photos[0].read_bytes())[1]["top"]) == 2


def test_predictions_do_not_depend_on_concurrent_requests(server, exported, photos):
    classifier = tellapart.load(exported)
    expected = {path: classifier.predict(path).probability for path in photos}
    paths = photos * 6
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda path: server.ask(body=path.read_bytes()), paths))
    for path, (status, prediction, _) in zip(paths, responses, strict=True):
        assert status == 200
        assert prediction["probability"] == pytest.approx(expected[path], abs=1e-5)


def test_an_unreadable_image_does_not_fail_the_others_of_a_form(server, photos):
    first, damaged, third = (path.read_bytes() for path in photos[:3])
    files = {"a.jpg": first, "b.jpg": damaged[:2000], "\u00fc.txt": b"text", "d.jpg": third}
    body, media_type = form_body(files)
    status, document, _ = server.ask(body=body, content_type=media_type)
    assert status == 200
    predictions = document["predictions"]
    assert [prediction["path"] for prediction in predictions] == list(files)
    assert [(item.get("status"), item.get("code")) for item in predictions] == [
        (None, None),
        (422, "unreadable_image"),
        (415, "not_an_image"),
        (None, None),
    ]
    assert all("label" in predictions[i] for i in (0, 3))


def test_costly_images_are_refused(server):
    for kind, content in COSTLY.items():
        assert (kind, server.ask(body=content)[0]) == (kind, 422)
    without_markup = b"P3 800 800 255\n" + b"0 " * 3 * 800 * 800
    assert server.ask(body=without_markup)[0] == 413
    assert server.ask(body=b"P3 80 80 255\n" + b"0 " * 3 * 80 * 80)[0] == 200


def ask_beside_costly_images(server, costly, photo, seconds):
    """Send each costly image repeatedly, and a photo four times a second; return the statuses for the photo."""
    end = time.monotonic() + seconds
    responses = []

    def send_repeatedly(content):
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                server.ask(body=content)

    with ThreadPoolExecutor(len(costly) + 8) as pool:
        for content in costly:
            pool.submit(send_repeatedly, content)
        while time.monotonic() < end:
            responses.append(pool.submit(server.ask, body=photo))
            time.sleep(0.25)
    return [response.result()[0] for response in responses]


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_costly_images_do_not_block_other_clients(start_server, photos, seconds):
    """Two clients send progressive JPEGs of 0.8 MB and 10,000 scans."""
    server = start_server()
    costly = COSTLY["progressive JPEG"]
    assert 400_000 < len(costly) < 1_500_000
    statuses = ask_beside_costly_images(server, [costly, costly], photos[0].read_bytes(), seconds)
    assert statuses.count(200) >= 0.99 * len(statuses)
    assert len(server.workers()) == 1


FORM = form_body({"a.jpg": b"text"})
PROBLEMS = {
    "text": (415, "not_an_image", {"body": b"some text"}),
    "empty body": (415, "not_an_image", {"body": b""}),
    "truncated image": (422, "unreadable_image", {"body": "truncated"}),
    "unknown model": (404, "unknown_model", {"path": "/v1/predict?model=cats", "body": "photo"}),
    "unknown path": (404, "not_found", {"path": "/v3"}),
    "no capture": (404, "capture_disabled", {"path": "/label"}),
    "wrong method": (405, "method_not_allowed", {"path": "/v1/predict"}),
    "invalid query": (422, "invalid_request", {"path": "/v1/predict?top=none", "body": "photo"}),
    "invalid deadline": (422, "invalid_request", {"body": "photo", "deadline_ms": "soon"}),
    "deadline passed": (504, "deadline_exceeded", {"body": "photo", "deadline_ms": "0"}),
    "large body": (413, "body_too_large", {"body": b"\xff\xd8\xff" + bytes(33 * 2**20)}),
    "large image": (413, "image_too_large", {"body": encode(Image.new("1", (9000, 9000)), "png")}),
    "large image of a format that takes more memory": (
        413,
        "image_too_large",
        {"body": encode(Image.new("L", (6000, 6000)), "webp", method=0)},
    ),
    "long narrow image": (413, "image_too_large", {"body": encode(Image.new("L", (40_000, 1)), "png")}),
    "unfinished form": (
        422,
        "invalid_form",
        {"body": b"--edge nothing", "content_type": "multipart/form-data; boundary=edge"},
    ),
    "form in an unknown encoding": (
        422,
        "invalid_form",
        {"body": FORM[0].replace(b"a.jpg", b"\xfc.jpg"), "content_type": f"{FORM[1]}; charset=undefined"},
    ),
    "trailing slash": (404, "not_found", {"path": "/v1/predict/", "body": "photo"}),
    "form without boundary": (422, "invalid_form", {"body": b"nothing", "content_type": "multipart/form-data"}),
    "unknown class": (422, "unknown_class", {"path": "/v1/explain?index=99", "body": "photo"}),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_errors_are_problem_documents(server, photos, case):
    status, code, request = PROBLEMS[case]
    photo = photos[0].read_bytes()
    bodies = {"photo": photo, "truncated": photo[:3000]}
    if isinstance(request.get("body"), str):
        request = request | {"body": bodies[request["body"]]}
    response_status, problem, headers = server.ask(**request)
    assert (response_status, problem["status"], problem["code"]) == (status, status, code)
    assert headers["content-type"] == "application/problem+json"
    if status == 405:
        assert headers["allow"] == "POST"


def test_all_methods_of_a_path_are_reported(start_server, tmp_path):
    server = start_server(capture=str(tmp_path / "captured"))
    status, problem, headers = server.ask(f"/v1/captures/{'0' * 64}", b"", "PATCH")
    assert (status, problem["code"], headers["allow"]) == (405, "method_not_allowed", "DELETE, GET, HEAD, PUT")


def test_only_one_image_is_explained_at_a_time(server, photos):
    body, media_type = form_body({"a.jpg": photos[0].read_bytes(), "b.jpg": photos[1].read_bytes()})
    status, problem, _ = server.ask("/v1/explain", body, content_type=media_type)
    assert (status, problem["code"]) == (422, "invalid_request")

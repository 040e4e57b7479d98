"""Request IDs, and the log of requests."""

import json
import re

from servers import wait_for

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_each_request_has_an_id_and_a_line(start_server, photos):
    server = start_server(log_requests=True)
    photo = photos[0].read_bytes()
    traced = server.ask(body=photo, traceparent=f"00-{TRACE}-b7ad6b7169203331-01")[2]["x-request-id"]
    assert traced == TRACE
    identifiers = [traced, server.ask(body=b"text")[2]["x-request-id"], server.ask("/v1/model")[2]["x-request-id"]]
    for invalid in ("00-xyz-1-01", f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{TRACE}"):
        identifier = server.ask("/v3", traceparent=invalid)[2]["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", identifier)
        assert identifier not in (TRACE, "0" * 32)
    assert server.ask("/readyz")[0] == 200

    def lines():
        return [line for line in map(json.loads, server.output.read_text().splitlines()) if "id" in line]

    wait_for(lambda: len(lines()) == 6)
    first, second, third, *others = lines()
    assert [line["id"] for line in (first, second, third)] == identifiers
    assert (first["method"], first["path"], first["status"], first["model"]) == ("POST", "/v1/predict", 200, "model")
    assert first["images"] == first["batch"] == 1
    assert first["ms"] >= first["decode_ms"] > 0
    assert (second["status"], second["code"]) == (415, "not_an_image")
    assert {line["status"] for line in others} == {404}
    assert "127.0.0.1" not in json.dumps([first, second, third])

"""A client of a server that `tellapart serve` runs: `Client("http://127.0.0.1:8000").predict("cat.jpg")`.

Needs no torch.
"""

import http.client
import json
import time
import urllib.parse
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.errors import ServerResponseError
from tellapart.inference.prediction import Prediction

_MAX_CONCURRENT = 8  # requests of `predict_many`
_RECONNECT_SECONDS = 0.2
_UNAVAILABLE = http.client.SERVICE_UNAVAILABLE


@dataclass(frozen=True)
class _Response:
    """A response; status: None if the server was not reached. retry_after: in seconds."""

    status: int | None
    retry_after: float
    content: bytes


class Client:
    """A client of one server, for any number of threads. Connections stay open until `close`, or the end of `with`.

    url: of the server. token: that the server requires, if any. model: its name; the first of the server by default.
    timeout: seconds for a result, retries included: a server at capacity or being replaced is asked again after the
    pause that it requests.
    """

    def __init__(self, url: str, *, token: str | None = None, model: str | None = None, timeout: float = 30.0) -> None:
        """Raise `ServerResponseError` if the URL or the token is invalid."""
        parts = _parse_url(url)
        if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
            raise ServerResponseError("The token is not valid: expected printable ASCII characters on one line.", None)
        self._connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._address, self._prefix = parts.netloc.rpartition("@")[2], parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._model, self._timeout = model, timeout
        self._idle: deque[http.client.HTTPConnection] = deque()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections; the next request opens a new one."""
        while self._idle:
            self._idle.pop().close()

    def predict(self, image: str | Path | bytes, *, top: int = 5) -> Prediction:
        """Return the prediction for an image: a file, or the bytes of one, for which `path` is empty.

        Raises `ServerResponseError` if there is none: its `status` is the HTTP status (415 and 422 for an image that
        cannot be read), or None if the server was not reached. Raises `OSError` if the file cannot be read.
        """
        path, content = ("", image) if isinstance(image, bytes) else (str(image), Path(image).read_bytes())
        document = self._request("POST", "/v1/predict", content, top=top)
        try:
            return Prediction.from_json(path, document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _no_answer(self._address) from error

    def predict_many(self, images: Iterable[str | Path], *, top: int = 5) -> Iterator[Prediction | ServerResponseError]:
        """Yield the prediction for each image, in their order, or the error for an image without one."""

        def predict_or_error(image: str | Path) -> Prediction | ServerResponseError:
            try:
                return self.predict(image, top=top)
            except ServerResponseError as error:
                return error

        with ThreadPoolExecutor(_MAX_CONCURRENT) as pool:
            yield from pool.map(predict_or_error, images)

    def describe_model(self) -> dict[str, Any]:
        """Return the description of the model: classes, preprocessing, test metrics; raises `ServerResponseError`."""
        return self._request("GET", "/v1/model")

    def _request(self, method: str, path: str, body: bytes | None = None, **query: object) -> dict[str, Any]:
        """Return the JSON object of a successful response; retry until the timeout while the server is unavailable."""
        model = {"model": self._model} if self._model else {}
        target = f"{self._prefix}{path}?{urllib.parse.urlencode(query | model)}"
        end = time.monotonic() + self._timeout
        while True:
            response = self._attempt(method, target, body, end - time.monotonic())
            if response.status == http.client.OK:
                return _parse_object(self._address, response)
            if response.status not in (None, _UNAVAILABLE) or time.monotonic() + response.retry_after >= end:
                raise _response_error(self._address, response)
            time.sleep(response.retry_after)

    def _attempt(self, method: str, target: str, body: bytes | None, seconds: float) -> _Response:
        headers = self._headers | {"Deadline-Ms": str(max(1, int(1000 * seconds)))}
        try:
            return self._send(method, target, body, headers, max(0.1, seconds))
        except (OSError, http.client.HTTPException) as error:
            return _Response(None, _RECONNECT_SECONDS, (str(error) or type(error).__name__).encode())

    def _send(self, method: str, target: str, body: bytes | None, headers: dict[str, str], seconds: float) -> _Response:
        connection = self._take_connection(seconds)
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            content = response.read()
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        retry_after = response.headers.get("Retry-After", "1")
        return _Response(response.status, float(retry_after) if retry_after.isdigit() else 1.0, content)

    def _take_connection(self, seconds: float) -> http.client.HTTPConnection:
        """Return an idle connection, or a new one."""
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._connect(self._address, timeout=seconds)
        connection.timeout = seconds
        if connection.sock:
            connection.sock.settimeout(seconds)
        return connection


def _parse_url(url: str) -> urllib.parse.SplitResult:
    """Return the parts of the URL of a server; raises `ServerResponseError`."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of `port`, too
        is_valid = False
    if not is_valid or not url.isprintable() or " " in url:
        raise ServerResponseError(
            f"{url!r} is not the URL of a server: expected http://127.0.0.1:8000 or similar.", None
        )
    return parts


def _parse_object(address: str, response: _Response) -> dict[str, Any]:
    try:
        document = json.loads(response.content)
    except ValueError as error:
        raise _no_answer(address) from error
    if not isinstance(document, dict):
        raise _no_answer(address)
    return document


def _no_answer(address: str) -> ServerResponseError:
    return ServerResponseError(
        f"{address} did not answer as a server of `tellapart serve` does: check the URL, and any proxy.",
        http.client.OK,
    )


def _response_error(address: str, response: _Response) -> ServerResponseError:
    """Return the error for a response, which may come from a proxy in front of the server."""
    if response.status is None:
        return ServerResponseError(f"Cannot reach the server {address}: {response.content.decode()}.", None)
    try:
        detail = str(json.loads(response.content)["detail"]).rstrip(".")
    except (ValueError, KeyError, TypeError):
        detail = "it gave no reason"
    return ServerResponseError(f"The server {address} returned status {response.status}: {detail}.", response.status)

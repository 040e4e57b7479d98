"""Ask a server that `tellapart serve` runs: `Client("http://127.0.0.1:8000").predict("cat.jpg")`. Needs no torch."""

import http.client
import json
import time
import urllib.parse
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tellapart.errors import ServerProblem
from tellapart.inference.prediction import Prediction

_AT_ONCE = 8  # pictures of `predict_many` on their way
_BUSY = http.client.SERVICE_UNAVAILABLE


class Client:
    """Asks one server; any number of threads may share it. Connections are kept until `close`, or the end of `with`.

    url: of the server. token: that it wants, if any. model: by name, its first if None. seconds: for an answer, with
    all tries: while the server is busy or is being replaced, it is asked again, after the pause that it names.
    """

    def __init__(self, url: str, *, token: str | None = None, model: str | None = None, seconds: float = 30.0) -> None:
        """Raise `ServerProblem` if the URL is none."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerProblem(f"{url} is no address of a server: expected one such as http://127.0.0.1:8000.", None)
        self._open = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._address, self._prefix = parts.netloc.rpartition("@")[2], parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._model, self._seconds = model, seconds
        self._idle: deque[http.client.HTTPConnection] = deque()  # connections that no thread is using

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept; asking opens new ones."""
        while self._idle:
            self._idle.pop().close()

    def predict(self, picture: str | Path | bytes, *, top: int = 5) -> Prediction:
        """Return what a picture shows: a file, or the bytes of one; `path` is empty for bytes.

        Raises `ServerProblem` if there is no answer: its `status` is that of HTTP (415 and 422 for a picture that
        cannot be read), or None if the server was not reached. Raises `OSError` if the file cannot be read.
        """
        path, content = ("", picture) if isinstance(picture, bytes) else (str(picture), Path(picture).read_bytes())
        return Prediction.from_json(path, json.loads(self._ask("POST", "/v1/predict", content, top=top)))

    def predict_many(self, pictures: Iterable[str | Path], *, top: int = 5) -> Iterator[Prediction | ServerProblem]:
        """Yield what each picture shows, in their order; the problem itself for one without an answer."""

        def one(picture: str | Path) -> Prediction | ServerProblem:
            try:
                return self.predict(picture, top=top)
            except ServerProblem as problem:
                return problem

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            yield from pool.map(one, pictures)

    def about(self) -> dict[str, Any]:
        """Return what the server tells of the model; raises `ServerProblem`."""
        found: dict[str, Any] = json.loads(self._ask("GET", "/v1/model"))
        return found

    def _ask(self, method: str, path: str, body: bytes | None = None, **query: object) -> bytes:
        named = {"model": self._model} if self._model else {}
        target = f"{self._prefix}{path}?{urllib.parse.urlencode(query | named)}"
        end = time.monotonic() + self._seconds
        while True:
            left = end - time.monotonic()
            headers = self._headers | {"Deadline-Ms": str(max(1, int(1000 * left)))}
            try:
                status, pause, content = self._sent(method, target, body, headers, max(0.1, left))
            except (OSError, http.client.HTTPException) as error:
                status, pause, content = None, 0.2, f"cannot be reached: {error or type(error).__name__}".encode()
            if status == http.client.OK:
                return content
            if status not in (None, _BUSY) or time.monotonic() + pause >= end:
                raise _problem(self._address, status, content)
            time.sleep(pause)

    def _sent(
        self, method: str, target: str, body: bytes | None, headers: dict[str, str], seconds: float
    ) -> tuple[int, float, bytes]:
        """Return a response's status, the pause in seconds that it asks for, and its content."""
        try:
            connection = self._idle.pop()
            connection.timeout = seconds
            if connection.sock:
                connection.sock.settimeout(seconds)
        except IndexError:
            connection = self._open(self._address, timeout=seconds)
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            content = response.read()
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        pause = response.headers.get("Retry-After", "1")
        return response.status, float(pause) if pause.isdigit() else 1.0, content


def _problem(address: str, status: int | None, content: bytes) -> ServerProblem:
    """Return the error for a response, which may be of anything that stands before the server."""
    try:
        detail = str(json.loads(content)["detail"]).rstrip(".") if status else content.decode()
    except (ValueError, KeyError, TypeError):
        detail = "no reason was given"
    return ServerProblem(f"The server {address} gave no answer ({status or 'not reached'}): {detail}.", status)

"""The body of a request, read under all its bounds: raw bytes of one picture, or a form with many files."""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from http import HTTPStatus

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from tellapart.serving.admission import Place
from tellapart.serving.limits import Limits
from tellapart.serving.problem import Problem

MOST_FILES = 64
_FEW = 4096  # bytes


def declared_size(request: Request, limits: Limits) -> int:
    """Return the length that the head of a request declares, 0 if none; raises `Problem` 413 or 422."""
    told = request.headers.get("content-length", "0")
    if not (told.isascii() and told.isdigit()):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "Content-Length is not a number.")
    if len(told) > 15 or int(told) > limits.body:
        raise too_large(limits)
    return int(told)


async def read_pictures(
    request: Request, place: Place, limits: Limits, deadline: float
) -> list[tuple[str | None, bytes]]:
    """Return the pictures in a body, each its name in the form, if it is one, and its content; raises `Problem`."""
    stream = _bounded(request, place, limits)
    seconds = min(limits.body_seconds, deadline - time.monotonic())
    try:
        async with asyncio.timeout(seconds):
            if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
                return await _files(request, stream, limits)
            return [(None, b"".join([chunk async for chunk in stream]))]
    except TimeoutError as error:
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, f"The body did not arrive within {seconds:.1f} seconds.") from error
    except ClientDisconnect as error:
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, "The client has gone.") from error


async def read_small(request: Request, limits: Limits) -> bytes:
    """Return a body of some thousand bytes; raises `Problem`."""
    few = replace(limits, body=_FEW)
    declared_size(request, few)
    found = b""
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                found += chunk
                if len(found) > _FEW:
                    raise too_large(few)
    except (TimeoutError, ClientDisconnect) as error:
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive.") from error
    return found


async def _bounded(request: Request, place: Place, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Yield the body, counted: a client may declare less than it sends, or nothing."""
    size, declared = 0, place.held
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.body:
            raise too_large(limits)
        if size > place.held:
            place.hold(size - max(place.held, declared))
        yield chunk


async def _files(
    request: Request, stream: AsyncGenerator[bytes, None], limits: Limits
) -> list[tuple[str | None, bytes]]:
    try:
        parser = MultiPartParser(request.headers, stream, max_files=MOST_FILES, max_fields=MOST_FILES)
        parser.spool_max_size = limits.body  # none is written to a disk
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "message", "it is no form with files")
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"The form cannot be read: {reason}.") from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    try:
        found: list[tuple[str | None, bytes]] = [(file.filename or "", await file.read()) for file in files]
    finally:
        await form.close()
    if not found:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "The form has no file.")
    return found


def too_large(limits: Limits) -> Problem:
    """Return what one is told whose body is too long."""
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {limits.body:,} bytes.")

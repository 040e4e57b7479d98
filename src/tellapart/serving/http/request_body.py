"""Request bodies, read within all limits: the bytes of one image, or a form with files."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass, replace
from typing import TypeVar

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from tellapart.serving.admission import Ticket
from tellapart.serving.limits import MAX_IMAGES, Limits
from tellapart.serving.problem import (
    BODY_TOO_LARGE,
    CLIENT_DISCONNECTED,
    INVALID_FORM,
    INVALID_REQUEST,
    REQUEST_TIMEOUT,
    ProblemError,
)

Result = TypeVar("Result")

_SMALL_BYTES = 4096
_MAX_DIGITS = 15


@dataclass(frozen=True)
class UploadedImage:
    """The bytes of an image, and its file name if it came in a form."""

    content: bytes
    name: str | None = None


def content_length(request: Request, limits: Limits) -> int:
    """Return the value of Content-Length, 0 if absent.

    Raises `ProblemError` `invalid_request` or `body_too_large`.
    """
    header = request.headers.get("content-length", "0")
    if not (header.isascii() and header.isdigit()):
        raise ProblemError(INVALID_REQUEST, "The header Content-Length must be a number of bytes.")
    if len(header) > _MAX_DIGITS or int(header) > limits.body_bytes:
        raise _body_too_large(limits)
    return int(header)


async def read_images(request: Request, ticket: Ticket, limits: Limits, deadline: float) -> list[UploadedImage]:
    """Return the image in a body, or the images in a form; raises `ProblemError`."""
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        stream = _limited_stream(request, ticket, limits)
        return await _within_time(_read_files(request, stream, limits), limits, deadline)
    return [UploadedImage(await read_body(request, ticket, limits, deadline))]


async def read_body(request: Request, ticket: Ticket, limits: Limits, deadline: float) -> bytes:
    """Return a body; raises `ProblemError`."""

    async def read() -> bytes:
        return b"".join([chunk async for chunk in _limited_stream(request, ticket, limits)])

    return await _within_time(read(), limits, deadline)


async def read_small_body(request: Request, limits: Limits) -> bytes:
    """Return a body of at most 4096 bytes; raises `ProblemError`."""
    small = replace(limits, body_bytes=_SMALL_BYTES)
    content_length(request, small)
    body = b""
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _SMALL_BYTES:
                    raise _body_too_large(small)
    except TimeoutError as error:
        detail = f"The body did not arrive within {limits.body_seconds:.1f} seconds."
        raise ProblemError(REQUEST_TIMEOUT, detail) from error
    except ClientDisconnect as error:
        raise disconnected_problem() from error
    return body


def disconnected_problem() -> ProblemError:
    """Return the problem of a request whose client has disconnected; it is only counted."""
    return ProblemError(CLIENT_DISCONNECTED, "The client has disconnected.")


async def _within_time(reading: Awaitable[Result], limits: Limits, deadline: float) -> Result:
    seconds = min(limits.body_seconds, deadline - time.monotonic())
    try:
        async with asyncio.timeout(seconds):
            return await reading
    except TimeoutError as error:
        detail = f"The body did not arrive within {seconds:.1f} seconds."
        raise ProblemError(REQUEST_TIMEOUT, detail) from error
    except ClientDisconnect as error:
        raise disconnected_problem() from error


async def _limited_stream(request: Request, ticket: Ticket, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Yield the body; counts its bytes, as a client may declare less than it sends, or nothing."""
    size, declared = 0, ticket.buffered_bytes
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.body_bytes:
            raise _body_too_large(limits)
        if size > ticket.buffered_bytes:
            ticket.reserve_bytes(size - max(ticket.buffered_bytes, declared))
        yield chunk


async def _read_files(request: Request, stream: AsyncGenerator[bytes, None], limits: Limits) -> list[UploadedImage]:
    try:
        parser = MultiPartParser(request.headers, stream, max_files=MAX_IMAGES, max_fields=MAX_IMAGES)
        parser.spool_max_size = limits.body_bytes  # nothing is written to disk
        form = await parser.parse()
    except (MultiPartException, LookupError, ValueError) as error:  # LookupError: an unknown character encoding
        reason = getattr(error, "message", "it is not a form with files")
        raise ProblemError(INVALID_FORM, f"The form cannot be read: {reason.rstrip('.')}.") from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    try:
        images = [UploadedImage(await file.read(), file.filename or "") for file in files]
    finally:
        await form.close()
    if not images:
        raise ProblemError(INVALID_FORM, "The form has no files; send at least one image.")
    return images


def _body_too_large(limits: Limits) -> ProblemError:
    return ProblemError(BODY_TOO_LARGE, f"The body exceeds the limit of {limits.body_bytes:,} bytes.")

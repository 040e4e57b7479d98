"""Problem documents as responses: exception handlers, and their description in the OpenAPI document."""

import functools
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from tellapart.errors import TellapartError
from tellapart.serving.problem import (
    CAPTURE_UNAVAILABLE,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    MEDIA_TYPE,
    ProblemError,
    ProblemType,
    encode_problem,
)

_OPEN_INFERENCE = "/v2"

Handler = Callable[[Request, Any], Awaitable[Response]]
ToProblem = Callable[[Request, Any], ProblemError]


def problem_response(problem: ProblemError, path: str) -> Response:
    """Return a problem document as a response to a request for a path."""
    document = problem.to_json(open_inference=path.startswith(_OPEN_INFERENCE))
    return Response(encode_problem(document), problem.status, problem.headers(), MEDIA_TYPE)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the entries of a route's `responses` for problems of these statuses."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def exception_handlers(routes: Sequence[BaseRoute]) -> dict[type[Exception], Handler]:
    """Return the exception handlers of an application; routes: all of them, to report the allowed methods of a path."""
    return {
        ProblemError: _handler(lambda _, problem: problem),
        HTTPException: _handler(functools.partial(_http_problem, routes)),
        RequestValidationError: _handler(_validation_problem),
        SQLAlchemyError: _handler(_store_problem),
        TellapartError: _handler(_tellapart_problem),
        Exception: _handler(_internal_problem),
    }


def _handler(to_problem: ToProblem) -> Handler:
    async def handle(request: Request, error: Exception) -> Response:
        return problem_response(to_problem(request, error), request.scope["path"])

    return handle


def _allowed_methods(routes: Sequence[BaseRoute], request: Request) -> str:
    """Return the methods of the routes with the path of a request, for the header Allow."""
    matching = [route for route in routes if route.matches(request.scope)[0] != Match.NONE]
    methods = {method for route in matching for method in getattr(route, "methods", None) or ()}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _http_problem(routes: Sequence[BaseRoute], request: Request, error: HTTPException) -> ProblemError:
    status = HTTPStatus(error.status_code)
    allow = _allowed_methods(routes, request) if status == HTTPStatus.METHOD_NOT_ALLOWED else None
    return ProblemError(ProblemType(status.name.lower(), status), f"{error.detail}.", allow=allow)


def _validation_problem(_: Request, error: RequestValidationError) -> ProblemError:
    reasons = [f"{'.'.join(map(str, reason['loc']))}: {reason['msg']}" for reason in error.errors()]
    return ProblemError(INVALID_REQUEST, f"{'; '.join(reasons)}.")


def _store_problem(*_: Any) -> ProblemError:
    return ProblemError(CAPTURE_UNAVAILABLE, "The capture store is unavailable; retry later.", retry_after=5)


def _tellapart_problem(_: Request, error: TellapartError) -> ProblemError:
    return ProblemError(ProblemType(error.code, INTERNAL_ERROR.status), str(error))


def _internal_problem(*_: Any) -> ProblemError:
    return ProblemError(INTERNAL_ERROR, "The server failed; its log has the reason.")

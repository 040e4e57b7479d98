"""Exceptions of the application become problem documents with a code."""

import asyncio
import json

import pytest
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tellapart.errors import ClassifierFileError, SaveError
from tellapart.serving.http.problems import exception_handlers
from tellapart.serving.problem import AT_CAPACITY, ProblemError

CASES = [
    (ProblemError(AT_CAPACITY, "Full.", retry_after=3), 503, "at_capacity"),
    (HTTPException(404), 404, "not_found"),
    (OperationalError("", {}, Exception()), 503, "capture_unavailable"),
    (SaveError("No space left."), 500, SaveError.code),
    (ClassifierFileError("Damaged."), 500, ClassifierFileError.code),
    (ZeroDivisionError(), 500, "internal_error"),
]


@pytest.mark.parametrize(("error", "status", "code"), CASES)
def test_exceptions_become_problem_documents(error, status, code):
    handlers = exception_handlers([])
    handler = next(handlers[base] for base in type(error).__mro__ if base in handlers)
    response = asyncio.run(handler(Request({"type": "http", "path": "/v1/predict"}), error))
    document = json.loads(response.body)
    assert (response.status_code, document["status"], document["code"]) == (status, status, code)
    assert response.media_type == "application/problem+json"
    assert response.headers.get("retry-after") == ({"at_capacity": "3", "capture_unavailable": "5"}.get(code))

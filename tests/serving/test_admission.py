"""Admission control: capacity is reserved, refused when exhausted, and given back."""

import contextlib
import socket

import pytest

from servers import form_body, wait_for
from tellapart.serving.admission import Admission
from tellapart.serving.limits import Limits
from tellapart.serving.problem import ProblemError

UNFINISHED = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50000\r\n\r\nabc"


def test_capacity_is_given_back():
    admission = Admission(Limits(images=2, buffered_bytes=100))
    with admission.admit(60) as ticket:
        ticket.reserve_bytes(40)
        assert admission.at_capacity
        with pytest.raises(ProblemError) as error, admission.admit(1):
            pass
        assert (error.value.code, error.value.retry_after) == ("at_capacity", 1)
    assert (admission.images, admission.buffered_bytes, admission.at_capacity) == (0, 0, False)


def test_images_beyond_the_limit_are_admitted_only_alone():
    admission = Admission(Limits(images=3))
    with admission.admit(0) as ticket:
        ticket.set_images(8)
        assert admission.images == 8
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(admission.admit(0)) for _ in range(2))
        first.set_images(2)
        with pytest.raises(ProblemError):
            second.set_images(2)
    assert admission.images == 0


def test_a_form_counts_as_many_images_as_it_has(start_server, photos):
    server = start_server(limits=Limits(images=3))
    body, media_type = form_body({f"{number}.jpg": photos[0].read_bytes() for number in range(8)})
    assert server.ask(body=body, content_type=media_type)[0] == 200  # alone it may be larger
    with socket.create_connection(("127.0.0.1", server.port)) as unfinished:
        unfinished.sendall(UNFINISHED)
        wait_for(lambda: server.images_in_progress() == 1)
        status, problem, _ = server.ask(body=body, content_type=media_type)
        assert (status, problem["code"]) == (503, "at_capacity")
    wait_for(lambda: server.images_in_progress() == 0)
    assert server.metrics()[("tellapart_request_errors_total", "at_capacity")] == 1

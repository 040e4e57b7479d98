"""The gRPC server: the service of the Open Inference Protocol beside HTTP, in the same event loop."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from tellapart.errors import ServeError, TellapartError, printable
from tellapart.inference.protobuf import ProtobufReader
from tellapart.serving.context import ServerContext
from tellapart.serving.grpc.messages import SERVICE, message_class
from tellapart.serving.open_inference import (
    BYTES,
    INPUT,
    PLATFORM,
    UINT8,
    InferRequest,
    InferResult,
    RequestedOutput,
    Tensor,
    TensorInfo,
    find_model,
    infer,
    input_info,
    output_info,
    pack_bytes,
    server_metadata,
)
from tellapart.serving.problem import INTERNAL_ERROR, INVALID_REQUEST, REQUEST_TIMEOUT, ProblemError

_MESSAGE_OVERHEAD = 2**20  # bytes of a request besides its images
_CONCURRENT_READS = 8
_READ_SECONDS = 5.0  # for a message, once it is read
_IDLE_SECONDS = 75  # until a connection without calls is closed
_PUBLIC = ("ServerLive", "ServerReady", "ServerMetadata")  # need no token
_MAX_FIELDS = 1000  # of a message
_MAX_RANK = 4
_MAX_CONNECTIONS = 512
_MAX_VALUES = 500_000  # that are not raw, which take far more time
# The fields of `ModelInferRequest` that are messages: parameters, inputs with their contents, and outputs.
_MESSAGE_FIELDS: dict[int, Any] = {4: {}, 5: {4: {}, 5: {}}, 6: {4: {}}}
_STATUS_CODES = {
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.REQUEST_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.INTERNAL_SERVER_ERROR: grpc.StatusCode.INTERNAL,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}  # INVALID_ARGUMENT for others

Message = Any  # of the classes that `message_class` returns
Method = Callable[[Message, float, int], Awaitable[Message]]


class GrpcServer:
    """Answers calls until it is stopped; raises `ServeError` if the address is not available."""

    def __init__(self, context: ServerContext, host: str, port: int) -> None:
        self.context = context
        size = context.limits.body_bytes + _MESSAGE_OVERHEAD
        options = [
            ("grpc.max_receive_message_length", size),
            ("grpc.so_reuseport", 0),
            ("grpc.max_allowed_incoming_connections", _MAX_CONNECTIONS),
            ("grpc.max_connection_idle_ms", 1000 * _IDLE_SECONDS),
            ("grpc.server_handshake_timeout_ms", int(1000 * context.limits.header_seconds)),
        ]
        self.server = grpc.aio.server(options=options, maximum_concurrent_rpcs=context.limits.connections)
        calls = _Calls(context)
        handlers = {name: calls.handler(name, method) for name, method in _methods(context).items()}
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port = self.server.add_insecure_port(address)
        except RuntimeError as error:
            raise ServeError(
                f"Cannot listen on {printable(address)} for gRPC: it is in use, or not an address of this machine; set "
                "--grpc-port or --host."
            ) from error

    async def start(self) -> None:
        """Start to accept calls."""
        await self.server.start()

    async def stop(self, grace: float) -> None:
        """Accept no more calls, and give those in progress some seconds to complete."""
        await self.server.stop(grace)


def _methods(context: ServerContext) -> dict[str, Method]:
    """Return the methods of the service by their names: each takes a request, its deadline, and its size in bytes."""

    async def server_live(*_: Any) -> Message:
        return message_class("ServerLiveResponse")(live=True)

    async def server_ready(*_: Any) -> Message:
        return message_class("ServerReadyResponse")(ready=context.pool.ready and not context.shutting_down)

    async def model_ready(request: Message, *_: Any) -> Message:
        find_model(context, request.name, request.version)
        return message_class("ModelReadyResponse")(ready=True)

    async def describe_server(*_: Any) -> Message:
        return message_class("ServerMetadataResponse")(**server_metadata())

    async def describe_model(request: Message, *_: Any) -> Message:
        model = find_model(context, request.name, request.version)
        return message_class("ModelMetadataResponse")(
            name=request.name,
            versions=[model.identity],
            platform=PLATFORM,
            inputs=[_metadata(info) for info in input_info()],
            outputs=[_metadata(info) for info in output_info(model)],
        )

    async def infer_images(request: Message, deadline: float, size: int) -> Message:
        with context.admission.admit(size) as ticket:
            result = await infer(context, _parse_request(request), deadline, ticket, {})
        return _to_message(result)

    return {
        "ServerLive": server_live,
        "ServerReady": server_ready,
        "ModelReady": model_ready,
        "ServerMetadata": describe_server,
        "ModelMetadata": describe_model,
        "ModelInfer": infer_images,
    }


class _Calls:
    """Calls, whose messages are read once they are authorized, and few at a time: each may take the largest size."""

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self.reading = asyncio.Semaphore(_CONCURRENT_READS)

    def handler(self, name: str, method: Method) -> grpc.RpcMethodHandler:
        """Return the handler of a method; for gRPC it takes a stream, which on the wire equals one message."""
        request_class, response_class = message_class(f"{name}Request"), message_class(f"{name}Response")

        async def answer(
            messages: AsyncIterator[bytes], headers: Mapping[str, str], call: grpc.aio.ServicerContext
        ) -> Message:
            self.context.authorize(headers)
            deadline = self._deadline(headers, call)
            content = await self._read(messages, deadline)
            return await method(_parse(request_class, content), deadline, len(content))

        async def handle(messages: AsyncIterator[bytes], call: grpc.aio.ServicerContext) -> Message:
            headers = {key: str(value) for key, value in call.invocation_metadata() or ()}
            try:
                if name in _PUBLIC:  # their messages are empty
                    return await method(request_class(), math.inf, 0)
                work = answer(messages, headers, call)
                return await (_record(self.context, work) if name == "ModelInfer" else work)
            except ProblemError as problem:
                code = _STATUS_CODES.get(problem.status, grpc.StatusCode.INVALID_ARGUMENT)
                await call.abort(code, problem.detail, (("code", problem.code),))

        return grpc.stream_unary_rpc_method_handler(handle, response_serializer=response_class.SerializeToString)

    def _deadline(self, headers: Mapping[str, str], call: grpc.aio.ServicerContext) -> float:
        deadline, seconds = self.context.deadline(headers), call.time_remaining()
        return deadline if seconds is None else min(deadline, time.monotonic() + seconds)

    async def _read(self, messages: AsyncIterator[bytes], deadline: float) -> bytes:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())), self.reading:
                async with asyncio.timeout(_READ_SECONDS):
                    return await anext(messages)
        except TimeoutError as error:
            raise ProblemError(REQUEST_TIMEOUT, "The request did not arrive in time.") from error
        except StopAsyncIteration as error:
            raise ProblemError(INVALID_REQUEST, "The call has no message.") from error


def _parse(request_class: Any, content: bytes) -> Message:
    """Return a message; one of millions of fields, whose parsing would take long, is refused."""
    try:
        _count_fields(ProtobufReader("The message", _MAX_FIELDS), memoryview(content), _MESSAGE_FIELDS)
        return request_class.FromString(content)
    except (TellapartError, DecodeError) as error:
        raise ProblemError(INVALID_REQUEST, "The message is not of the protocol, or has too many fields.") from error


def _count_fields(reader: ProtobufReader, message: memoryview, nested: dict[int, Any]) -> None:
    for number, _, value in reader.fields(message):
        if number in nested:
            _count_fields(reader, reader.message(value), nested[number])


async def _record(context: ServerContext, work: Awaitable[Message]) -> Message:
    """Return the result of some work, and record its status, as in HTTP, and its duration."""
    start, status = time.monotonic(), INTERNAL_ERROR.status.value
    try:
        result = await work
        status = HTTPStatus.OK.value
        return result
    except ProblemError as problem:
        status = problem.status.value
        context.metrics.record_error(problem.code)
        raise
    finally:
        context.metrics.record_request(status, time.monotonic() - start)


def _parse_request(message: Message) -> InferRequest:
    if len(message.inputs) != 1 or len(message.raw_input_contents) > 1 or len(message.inputs[0].shape) > _MAX_RANK:
        raise ProblemError(INVALID_REQUEST, f'Send one input, "{INPUT}", of at most {_MAX_RANK} dimensions.')
    tensor, raw = message.inputs[0], message.raw_input_contents
    content = raw[0] if raw else _contents(tensor)
    timeout = _parameter(message.parameters, "timeout")  # in microseconds
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        id=message.id,
        inputs=[Tensor(tensor.name, tensor.datatype, tuple(tensor.shape), content)],
        outputs=[
            RequestedOutput(output.name, _parameter(output.parameters, "classification")) for output in message.outputs
        ],
        timeout=timeout / 1e6 if timeout > 0 else math.inf,
    )


def _contents(tensor: Message) -> bytes:
    """Return the content of an input that is not raw."""
    if tensor.datatype == BYTES:
        return pack_bytes(tensor.contents.bytes_contents)
    if len(tensor.contents.uint_contents) > _MAX_VALUES:
        raise ProblemError(INVALID_REQUEST, f"Send more than {_MAX_VALUES:,} values as raw_input_contents.")
    try:
        return bytes(tensor.contents.uint_contents) if tensor.datatype == UINT8 else b""
    except ValueError as error:
        raise ProblemError(INVALID_REQUEST, "The values of UINT8 must be from 0 to 255.") from error


def _parameter(parameters: Mapping[str, Message], name: str) -> int:
    """Return a parameter that is a number, 0 if it is absent."""
    if name not in parameters:
        return 0
    value = parameters[name]
    return int(value.int64_param or value.uint64_param)


def _to_message(result: InferResult) -> Message:
    output_class = message_class("InferOutputTensor")
    return message_class("ModelInferResponse")(
        model_name=result.request.model,
        model_version=result.version,
        id=result.request.id,
        outputs=[
            output_class(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape) for tensor in result.outputs
        ],
        raw_output_contents=[tensor.content for tensor in result.outputs],
    )


def _metadata(info: TensorInfo) -> Message:
    return message_class("TensorMetadata")(name=info.name, datatype=info.datatype, shape=info.shape)

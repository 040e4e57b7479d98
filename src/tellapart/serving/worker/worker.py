"""The worker process: image bytes in, predictions out. Other processes decode for it, and it infers in batches.

A batch is whatever is decoded when the runtime is free: no image waits for others, and under load batches grow by
themselves. Occlusion maps are computed between batches, a few images at a time.
"""

import json
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tellapart.serving.problem import (
    DEADLINE_EXCEEDED,
    INTERNAL_ERROR,
    UNKNOWN_CLASS,
    ProblemType,
)
from tellapart.serving.worker.decoder import DecodeJob, Decoder
from tellapart.serving.worker.decoder_pool import DecoderPool, ReceivedImage
from tellapart.serving.worker.loaded_model import LoadedModel
from tellapart.serving.worker.messages import (
    MOST_PROBABLE,
    NO_DISTANCE,
    EventKind,
    InferenceRequest,
    InferenceResponse,
    RequestKind,
    WorkerEvent,
    error_response,
    read_request,
)
from tellapart.serving.worker.model_files import ModelFiles
from tellapart.serving.worker.occlusion import occluded_copies, render_occlusion_map
from tellapart.serving.worker.plan import WorkerPlan
from tellapart.serving.worker.untrusted_image import ImageRefusedError

_WATCH_SECONDS = 0.5  # between checks for changed model files
_ALIVE_SECONDS = 1.0  # between reports that this process works
_NICENESS = 5  # so that the server's responses, refusals included, do not wait for the processor behind a batch
_MAX_CANCELLED = 1024  # cancelled requests remembered before expired ones are dropped
_HANG_SECONDS = 60.0  # for a batch
_OCCLUDED_AT_ONCE = 4  # images, so that predictions do not wait long


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An image that waits for the runtime, with the model that it was resized for; times are in seconds."""

    request: InferenceRequest
    model: LoadedModel
    pixels: NDArray[np.uint8]
    received: float
    decode_seconds: float


@dataclass(slots=True)
class Explanation:
    """An occlusion map in progress: the occluded images that are left, and the probabilities of those before."""

    image: DecodedImage
    remaining: Iterator[NDArray[np.uint8]]
    probabilities: list[NDArray[np.float32]] = field(default_factory=list)


class InferenceWorker:
    """Answers requests from a socket until it is closed."""

    def __init__(
        self, connection: socket.socket, paths: list[Path], copies: list[Path], plan: WorkerPlan, max_pixels: int
    ) -> None:
        self.connection, self.plan = connection, plan
        self.decoders = DecoderPool(plan.decoders, max_pixels, self._decode, self._refuse, self._is_dropped)
        self.files = ModelFiles(paths, copies, plan)
        self.predictions: deque[DecodedImage] = deque()
        self.explanations: deque[Explanation] = deque()
        self.work_available = threading.Condition()
        self.cancelled: dict[int, float] = {}  # deadlines by request ID
        self.inferring: dict[int, float] = {}  # start of the batch of each thread
        self.send_lock = threading.Lock()

    def run(self) -> None:
        """Load the models, and answer requests until the server closes the connection."""
        for event in self.files.load_all():
            self._send(event.to_response())
        if len(self.files.models) < len(self.files.paths):
            os._exit(1)  # the server starts another worker after a while
        self.decoders.start()
        for _ in range(self.plan.concurrent_batches):
            threading.Thread(target=self._infer_forever, daemon=True).start()
        self._send(WorkerEvent(EventKind.READY).to_response())
        for loop in (self._watch_forever, self._report_alive_forever):
            threading.Thread(target=loop, daemon=True).start()
        while True:
            try:
                request = read_request(self.connection)
            except (EOFError, OSError):
                os._exit(0)  # the server is gone
            if request.kind == RequestKind.CANCEL:
                self._cancel(request)
            else:
                self.decoders.put(request)

    def _decode(self, decoder: Decoder, received: ReceivedImage, seconds: float) -> None:
        request = received.request
        start, model = time.monotonic(), self.files.models[request.model_index]
        if request.kind == RequestKind.STRIP_METADATA:
            content = decoder.decode(DecodeJob(request.body, None), seconds)
            self._send(InferenceResponse(request.request_id, HTTPStatus.OK, content))
            return
        if request.kind == RequestKind.EXPLAIN and len(model.classifier.classes) <= request.argument != MOST_PROBABLE:
            raise ImageRefusedError(
                UNKNOWN_CLASS,
                f"the model has {len(model.classifier.classes)} classes, none of index {request.argument}",
            )
        settings = model.classifier.preprocess
        content = decoder.decode(DecodeJob(request.body, settings), seconds)
        pixels = np.frombuffer(content, np.uint8).reshape(settings.size, settings.size, 3)
        without_body = replace(request, body=b"")  # frees the bytes of the file
        decoded = DecodedImage(without_body, model, pixels, received.time, time.monotonic() - start)
        with self.work_available:
            if request.kind != RequestKind.EXPLAIN:
                self.predictions.append(decoded)
            else:
                self.explanations.append(Explanation(decoded, occluded_copies(pixels)))
            self.work_available.notify()

    def _infer_forever(self) -> None:
        while True:
            with self.work_available:
                while not (self.predictions or self.explanations):
                    self.work_available.wait()
                batch = self._take_batch()
                explanation = None if batch else self.explanations.popleft()
            images = [image for image in batch if not self._is_dropped(image.request)]
            self.inferring[threading.get_ident()] = time.monotonic()
            try:
                if images:
                    self._predict(images)
                elif explanation and not self._is_dropped(explanation.image.request):
                    self._explain(explanation)
            except Exception as error:  # the runtime's exceptions have no common class
                for image in images or ([explanation.image] if explanation else []):
                    self._send_problem(image.request, INTERNAL_ERROR, type(error).__name__)
            finally:
                del self.inferring[threading.get_ident()]

    def _take_batch(self) -> list[DecodedImage]:
        """Return the first waiting images of one model, at most as many as a batch may have."""
        batch: list[DecodedImage] = []
        while self.predictions and len(batch) < self.plan.max_batch_size:
            if batch and self.predictions[0].model is not batch[0].model:
                break
            batch.append(self.predictions.popleft())
        return batch

    def _predict(self, batch: list[DecodedImage]) -> None:
        start, model = time.monotonic(), batch[0].model
        outputs = model.classifier.compute_outputs(np.stack([image.pixels for image in batch]))
        inference_seconds = time.monotonic() - start
        predictions = model.classifier.infer_from_outputs(outputs)
        distances = outputs[1] if model.classifier.ood_threshold is not None else np.full(len(batch), NO_DISTANCE)
        for row, image in enumerate(batch):
            top = image.request.argument
            prediction = predictions.prediction(row, "", model.classifier.classes, top).to_json()
            del prediction["path"]
            if image.request.kind == RequestKind.PREDICT_PROBA:
                prediction["probabilities"] = predictions.probabilities[row].tolist()
            response = InferenceResponse(
                request_id=image.request.request_id,
                status=HTTPStatus.OK,
                body=json.dumps(prediction | {"model": model.identity}, ensure_ascii=False).encode(),
                queue_seconds=start - image.received - image.decode_seconds,
                decode_seconds=image.decode_seconds,
                inference_seconds=inference_seconds,
                batch_size=len(batch),
                distance=float(distances[row]),
            )
            self._send(response)

    def _explain(self, explanation: Explanation) -> None:
        """Infer a few more occluded images; send the map when none is left."""
        occluded = list(islice(explanation.remaining, _OCCLUDED_AT_ONCE))
        image = explanation.image
        if occluded:
            explanation.probabilities.append(image.model.classifier.compute_outputs(np.stack(occluded))[0])
            with self.work_available:
                self.explanations.append(explanation)  # at the end: explanations take turns
                self.work_available.notify()
            return
        unoccluded = image.model.classifier.compute_outputs(image.pixels[None])[0][0]
        argument = image.request.argument
        index = int(unoccluded.argmax()) if argument == MOST_PROBABLE else argument
        probabilities = np.concatenate(explanation.probabilities)[:, index]
        png = render_occlusion_map(image.pixels, float(unoccluded[index]), probabilities)
        self._send(InferenceResponse(image.request.request_id, HTTPStatus.OK, png))

    def _cancel(self, request: InferenceRequest) -> None:
        """Note that nobody waits for the response; it may have been sent already, so notes expire."""
        self.cancelled[request.request_id] = request.deadline
        if len(self.cancelled) > _MAX_CANCELLED:
            now = time.monotonic()
            self.cancelled = {key: deadline for key, deadline in list(self.cancelled.items()) if deadline > now}

    def _is_dropped(self, request: InferenceRequest) -> bool:
        """Whether nobody waits for the response any more; if its deadline has passed, the client gets that response."""
        if request.request_id in self.cancelled:
            self.cancelled.pop(request.request_id, None)
            return True
        if time.monotonic() > request.deadline:
            self._send_problem(request, DEADLINE_EXCEEDED, "the deadline has passed")
            return True
        return False

    def _watch_forever(self) -> None:
        while True:
            time.sleep(_WATCH_SECONDS)
            self._drop_late_explanations()
            for event in self.files.reload_changed():
                self._send(event.to_response())

    def _report_alive_forever(self) -> None:
        """Report that this process works; end it, to be replaced, if a batch takes far too long."""
        while True:
            time.sleep(_ALIVE_SECONDS)
            now = time.monotonic()
            if any(start + _HANG_SECONDS < now for start in list(self.inferring.values())):
                os._exit(1)
            self._send(WorkerEvent(EventKind.ALIVE).to_response())

    def _drop_late_explanations(self) -> None:
        now = time.monotonic()
        with self.work_available:
            late = [explanation for explanation in self.explanations if explanation.image.request.deadline < now]
            self.explanations = deque(
                explanation for explanation in self.explanations if explanation.image.request.deadline >= now
            )
        for explanation in late:
            self._is_dropped(explanation.image.request)

    def _refuse(self, request: InferenceRequest, error: ImageRefusedError) -> None:
        self._send_problem(request, error.problem, error.reason)

    def _send_problem(self, request: InferenceRequest, problem: ProblemType, reason: str) -> None:
        self._send(error_response(request.request_id, problem, reason))

    def _send(self, response: InferenceResponse) -> None:
        with self.send_lock:
            self.connection.sendall(response.pack())


def run_worker(
    connection: socket.socket, paths: list[Path], copies: list[Path], plan: WorkerPlan, max_pixels: int
) -> None:
    """Run a worker until the server closes the connection; signals to the whole process group end nothing early."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    InferenceWorker(connection, paths, copies, plan, max_pixels).run()

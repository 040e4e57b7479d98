"""The decoders of a worker: several for images that take little, and one for those that are large or slow.

Large and slow images neither delay the others nor fill the memory, since only one of them is decoded at a time.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tellapart.serving.problem import DEADLINE_EXCEEDED, IMAGE_TOO_LARGE, OUT_OF_MEMORY, UNREADABLE_IMAGE
from tellapart.serving.worker.decoder import Decoder
from tellapart.serving.worker.messages import InferenceRequest
from tellapart.serving.worker.untrusted_image import ImageRefusedError

_LOG = logging.getLogger(__name__)
_QUICK_SECONDS, _QUICK_PIXELS = 1.0, 13_000_000  # photographs of phones have 12 megapixels


@dataclass(frozen=True, slots=True)
class ReceivedImage:
    """A request with an image that waits for a decoder, and when it came."""

    request: InferenceRequest
    time: float


# Decodes an image within some seconds, and passes it on; raises `ImageRefusedError` or `TimeoutError`.
Decode = Callable[[Decoder, ReceivedImage, float], None]
Refuse = Callable[[InferenceRequest, ImageRefusedError], None]


class DecoderPool:
    """Threads with a decoder each.

    decode: what a thread does with an image. refuse: answers a request whose image is not decoded. is_dropped: whether
    nobody waits for the response to a request.
    """

    def __init__(
        self,
        quick_decoders: int,
        max_pixels: int,
        decode: Decode,
        refuse: Refuse,
        is_dropped: Callable[[InferenceRequest], bool],
    ) -> None:
        self.decode, self.refuse, self.is_dropped = decode, refuse, is_dropped
        self.quick, self.slow = queue.SimpleQueue[ReceivedImage](), queue.SimpleQueue[ReceivedImage]()
        self.quick_decoders = [Decoder(min(max_pixels, _QUICK_PIXELS)) for _ in range(quick_decoders)]
        self.slow_decoder = Decoder(max_pixels)

    def start(self) -> None:
        """Start decoding as soon as all processes have started."""
        for decoder in (*self.quick_decoders, self.slow_decoder):
            decoder.wait_until_ready()
        for decoder in self.quick_decoders:
            threading.Thread(target=self._decode_quickly, args=(decoder,), daemon=True).start()
        threading.Thread(target=self._decode_slowly, args=(self.slow_decoder,), daemon=True).start()

    def put(self, request: InferenceRequest) -> None:
        """Decode the image of a request."""
        self.quick.put(ReceivedImage(request, time.monotonic()))

    def _decode_quickly(self, decoder: Decoder) -> None:
        while True:
            image = self.quick.get()
            try:
                self._decode(decoder, image, _QUICK_SECONDS)
            except TimeoutError:
                self.slow.put(image)
            except ImageRefusedError as error:
                if error.problem == IMAGE_TOO_LARGE:  # for this decoder
                    self.slow.put(image)
                else:
                    self.refuse(image.request, error)

    def _decode_slowly(self, decoder: Decoder) -> None:
        while True:
            image = self.slow.get()
            try:
                self._decode(decoder, image, max(_QUICK_SECONDS, image.request.deadline - time.monotonic()))
            except TimeoutError:
                _LOG.warning("Ended the decoding of an image of %d bytes at its deadline.", len(image.request.body))
                self.refuse(image.request, ImageRefusedError(DEADLINE_EXCEEDED, "the deadline has passed"))
            except ImageRefusedError as error:
                self.refuse(image.request, error)

    def _decode(self, decoder: Decoder, image: ReceivedImage, seconds: float) -> None:
        if self.is_dropped(image.request):
            return
        try:
            self.decode(decoder, image, seconds)
        except (TimeoutError, ImageRefusedError):
            raise
        except (MemoryError, OSError) as error:  # OSError: no other process can be started
            raise ImageRefusedError(OUT_OF_MEMORY, "there is not enough memory for this image") from error
        except Exception as error:  # whatever fails, the client gets a response
            raise ImageRefusedError(UNREADABLE_IMAGE, type(error).__name__) from error

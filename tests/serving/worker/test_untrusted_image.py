"""Captured images have pixels and nothing else."""

import io

import numpy as np
from PIL import Image

from encoding import encode
from tellapart.data.image import decode
from tellapart.serving.worker.untrusted_image import encode_for_capture


def test_a_captured_image_has_no_metadata(photos):
    image = Image.open(photos[0]).convert("RGB")
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a camera", 6  # manufacturer and orientation
    exif.get_ifd(0x8825)[2] = (47.0, 0.0, 0.0)  # latitude
    content = encode(image, "jpeg", exif=exif, comment=b"a comment")
    captured = encode_for_capture(decode(content))
    assert (decode(captured) == decode(content)).all()  # upright, and the same pixels
    with Image.open(io.BytesIO(captured)) as stored:
        assert not dict(stored.getexif())
        assert not stored.info.keys() & {"exif", "comment", "xmp", "icc_profile"}
    assert b"camera" not in captured


def test_a_large_captured_image_is_reduced():
    captured = encode_for_capture(np.zeros((2000, 3000, 3), np.uint8))
    assert decode(captured).shape == (683, 1024, 3)

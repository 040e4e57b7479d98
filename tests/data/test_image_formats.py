"""The table of formats is the only list of them: names, extensions, content and documentation agree with it."""

from pathlib import Path

import pytest
from PIL import Image, features

from encoding import encode
from tellapart.data.image_formats import (
    DECODERS,
    FORMATS,
    SUPPORTED,
    detect_image_format,
    has_image_magic,
    is_image_name,
)

DOCS = Path(__file__).parents[2] / "docs"


def test_names_and_extensions_are_unique():
    names = [image_format.name for image_format in FORMATS]
    extensions = [extension for image_format in FORMATS for extension in image_format.extensions]
    assert len(set(names)) == len(names)
    assert len(set(extensions)) == len(extensions)
    assert all(extension == extension.lower() and extension.startswith(".") for extension in extensions)


@pytest.mark.parametrize("image_format", SUPPORTED, ids=lambda image_format: image_format.name)
def test_supported_formats_are_detected_by_content(photo, image_format):
    data = encode(photo, image_format.decoder)
    assert detect_image_format(data[:16]) is image_format
    assert has_image_magic(data[:16])
    assert image_format.is_accepted(data)
    assert sum(candidate.is_accepted(data) for candidate in SUPPORTED) == 1


def test_pillow_has_all_decoders():
    Image.init()
    assert set(DECODERS) <= set(Image.OPEN)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1"])
def test_heic_is_recognized(brand):
    assert detect_image_format(b"\x00\x00\x00\x18ftyp" + brand + bytes(4)).decoder == "HEIF"


@pytest.mark.skipif(not features.check("avif"), reason="this build of Pillow does not write AVIF")
def test_avif_is_recognized(photo):
    assert detect_image_format(encode(photo, "AVIF")[:16]).name == "AVIF"


@pytest.mark.parametrize("image_format", FORMATS, ids=lambda image_format: image_format.name)
def test_extensions_count_in_any_case(image_format):
    for extension in image_format.extensions:
        assert is_image_name(f"a.b{extension}")
        assert is_image_name(f"folder.txt/A{extension.upper()}")
        assert not is_image_name(extension[1:])


@pytest.mark.parametrize("head", [b"", b"%PDF-1.7\n", b"Programs\n", b"RIFF\x00\x00\x00\x00WAVE", b"GIF", b"\x89PNG"])
def test_other_content_has_no_format(head):
    assert detect_image_format(head) is None


def test_the_documentation_names_all_formats():
    page = (DOCS / "sources.md").read_text(encoding="utf-8")
    assert [image_format.name for image_format in FORMATS if image_format.name not in page] == []


@pytest.mark.parametrize("text", [b"BMW is a maker of cars", b"BM" + bytes(14), b"P1 is a plan", b"P6\nfirst", b"P2"])
def test_texts_that_begin_like_an_image_are_none(text):
    assert not has_image_magic(text)

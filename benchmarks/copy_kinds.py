"""Copies of images as people and tools make them, to measure the search for near duplicates."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def recompress(image: Image.Image, quality: int) -> Image.Image:
    """Return the image after JPEG compression."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def crop(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Return the image with these shares of its sides cut off."""
    w, h = image.size
    return image.crop((round(w * left), round(h * top), round(w * (1 - right)), round(h * (1 - bottom))))


def resize(image: Image.Image, scale: float) -> Image.Image:
    """Return the image at another size."""
    return image.resize((max(4, int(image.width * scale)), max(4, int(image.height * scale))))


def light(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return a copy as messengers and editors make it: slightly cropped, resized, brightened and recompressed."""
    image = resize(crop(image, *random.uniform(0, 0.03, 4)), random.uniform(0.6, 1.0))
    image = ImageEnhance.Brightness(image).enhance(random.uniform(0.85, 1.15))
    return recompress(image, int(random.integers(50, 95)))


def burst(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the next frame of a hand-held camera: shifted by up to 3%, with other noise and light."""
    w, h = image.size
    scale, (right, down) = random.uniform(0.94, 1.0), random.uniform(-0.03, 0.03, 2)
    left, top = w / 2 * (1 - scale) + right * w, h / 2 * (1 - scale) + down * h
    moved = image.transform((w, h), Image.Transform.AFFINE, (scale, 0, left, 0, scale, top), Image.Resampling.BICUBIC)
    noisy = np.asarray(moved, np.float32) * random.uniform(0.95, 1.05) + random.normal(0, 4, (h, w, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def mirrored(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the mirror image."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def turned_90(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the image turned by 90 degrees."""
    return image.transpose(Image.Transpose.ROTATE_90)


def mirrored_light(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the mirror image, lightly modified."""
    return light(mirrored(image, random), random)


def crop_15(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the image with up to 15% of each side cut off."""
    return crop(image, *random.uniform(0, 0.15, 4))


def crop_to_85(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return a part anywhere in the image with 85% of its width and height."""
    x, y = random.uniform(0, 0.15, 2)
    return crop(image, x, y, 0.15 - x, 0.15 - y)


def gamma(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the image with another gamma, from 0.5 to 2."""
    values = (np.asarray(image, np.float32) / 255) ** np.exp(random.uniform(-1, 1) * np.log(2))
    return Image.fromarray((255 * values + 0.5).astype(np.uint8))


def watermark(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the image with a sign in one of its corners, over 35% of its width and 14% of its height."""
    image, (w, h) = image.copy(), image.size
    draw, width, height = ImageDraw.Draw(image, "RGBA"), int(w * 0.35), int(h * 0.14)
    x, y = int(random.integers(2)) * (w - width), int(random.integers(2)) * (h - height)
    draw.rectangle((x, y, x + width, y + height), fill=(255, 255, 255, 200))
    draw.text((x + 3, y + 3), "(c) studio", fill=(0, 0, 0, 255), font_size=max(6, height * 0.6))
    return image


def turned_3(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the image turned by up to 3 degrees, with black corners."""
    return image.rotate(random.uniform(-3, 3), Image.Resampling.BICUBIC)


def border(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the image in a white frame of 5% of its shorter side."""
    w, h = image.size
    width = max(1, round(0.05 * min(w, h)))
    framed = Image.new("RGB", (w + 2 * width, h + 2 * width), "white")
    framed.paste(image, (width, width))
    return framed


def screenshot(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the image as a part of a page, with a bar above and lines of text below it."""
    w, h = image.size
    page = Image.new("RGB", (int(w * 1.1), int(h * 1.35)), (245, 245, 245))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, page.width, int(0.1 * h)), fill=(40, 40, 60))
    draw.text((5, 3), "12:30", fill=(255, 255, 255), font_size=max(6, h * 0.05))
    page.paste(image, (int(0.05 * w), int(0.13 * h)))
    for line in range(3):
        top, right = 1.16 + 0.05 * line, 0.5 + 0.15 * line
        draw.rectangle((int(0.05 * w), int(h * top), int(w * right), int(h * (top + 0.02))), fill=(150, 150, 150))
    return page


def augmented(image: Image.Image, random: np.random.Generator, degrees: float = 15, cut: float = 0.0) -> Image.Image:
    """Return the image as an augmentation tool exports it: flipped, turned, cropped, other light, blurred, a JPEG."""
    if random.random() < 0.5:
        image = mirrored(image, random)
    image = image.rotate(random.uniform(-degrees, degrees), Image.Resampling.BICUBIC)
    image = crop(image, *random.uniform(0, cut, 4)) if cut else image
    for enhance, most in ((ImageEnhance.Brightness, 0.25), (ImageEnhance.Color, 0.3), (ImageEnhance.Contrast, 0.15)):
        image = enhance(image).enhance(random.uniform(1 - most, 1 + most))
    image = image.filter(ImageFilter.GaussianBlur(random.uniform(0, 1.5) * max(image.size) / 640))
    return recompress(image, 85)


def augmented_crop(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return the image as `augmented`, turned by up to 10 degrees, with up to 10% of each side cut off."""
    return augmented(image, random, 10, 0.1)


CHANGES: dict[str, Change] = {
    "light": light,
    "burst": burst,
    "mirrored": mirrored,
    "turned 90": turned_90,
    "mirrored, light": mirrored_light,
    "crop to 15%": crop_15,
    "crop keeps 85%": crop_to_85,
    "gamma": gamma,
    "watermark": watermark,
    "turned 3": turned_3,
    "border": border,
    "screenshot": screenshot,
    "augmented": augmented,
    "augmented, crop": augmented_crop,
}
_ONCE = {"mirrored", "turned 90", "gamma", "watermark", "turned 3", "border", "screenshot"}


def make_copies(image: Image.Image, kind: str, count: int, random: np.random.Generator) -> list[Image.Image]:
    """Return `count` copies of a kind; all but the first are also resized and recompressed, unless the kind varies."""
    copies = [CHANGES[kind](image, random) for _ in range(count)]
    if kind not in _ONCE:
        return copies
    return [
        copies[0],
        *(recompress(resize(copy, random.uniform(0.6, 1)), int(random.integers(50, 95))) for copy in copies[1:]),
    ]

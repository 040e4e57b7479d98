"""The icons of the web page, drawn with Pillow: two different shapes."""

import io

from PIL import Image, ImageDraw

GREEN, WHITE, PALE_GREEN = "#17643a", "#ffffff", "#a9e0c0"
_SUPERSAMPLING = 4  # drawn larger and then resized, for smooth edges


def draw_icon(size: int, full: bool = False) -> bytes:
    """Return a PNG of size x size; full: fill the square, for systems that mask icons with their own shape."""
    side = size * _SUPERSAMPLING
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)

    def scale(*fractions: float) -> list[float]:
        return [fraction * side for fraction in fractions]

    draw.rounded_rectangle(scale(0, 0, 1, 1), 0 if full else 0.22 * side, fill=GREEN)
    draw.ellipse(scale(0.20, 0.36, 0.47, 0.63), fill=WHITE)
    draw.rounded_rectangle(scale(0.545, 0.37, 0.80, 0.625), 0.035 * side, fill=PALE_GREEN)
    content = io.BytesIO()
    resized = image.resize((size, size), Image.Resampling.LANCZOS)
    (resized.convert("RGB") if full else resized).save(content, "png", optimize=True)
    return content.getvalue()

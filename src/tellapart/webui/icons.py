"""The app's icons, drawn here: two shapes that are told apart."""

import io

from PIL import Image, ImageDraw

GREEN, WHITE, PALE = "#17643a", "#ffffff", "#a9e0c0"
_FINE = 4  # drawn larger, then resized, so that edges are smooth


def icon(size: int, full: bool = False) -> bytes:
    """Return a PNG of size x size; full: to its edges, for systems that cut icons into a shape of their own."""
    side = size * _FINE
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)

    def at(*shares: float) -> list[float]:
        return [share * side for share in shares]

    draw.rounded_rectangle(at(0, 0, 1, 1), 0 if full else 0.22 * side, fill=GREEN)
    draw.ellipse(at(0.20, 0.36, 0.47, 0.63), fill=WHITE)
    draw.rounded_rectangle(at(0.545, 0.37, 0.80, 0.625), 0.035 * side, fill=PALE)
    content = io.BytesIO()
    small = image.resize((size, size), Image.Resampling.LANCZOS)
    (small.convert("RGB") if full else small).save(content, "png", optimize=True)
    return content.getvalue()

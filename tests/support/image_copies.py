"""Changed copies of images, as people and programs make them."""

from PIL import Image

from encoding import encode
from tellapart.data.image import decode


def crop(image, share):
    width, height = image.size
    return image.crop((int(width * share), int(height * share / 2), width, height - int(height * share / 2)))


def light_copies(image, count, random):
    """Return an image and changed copies of it, as people and programs make them."""
    changed = [image]
    for _ in range(count - 1):
        part = crop(image, random.uniform(0, 0.04))
        part = part.resize([max(8, round(side * random.uniform(0.6, 1.2))) for side in part.size])
        light = random.uniform(0.85, 1.15)
        part = part.point(lambda v, light=light: int(min(255, v * light)))
        changed.append(Image.fromarray(decode(encode(part, "JPEG", quality=int(random.integers(50, 95))))))
    return changed

"""Changed copies of images, as people and programs make them."""

from PIL import Image

from encoding import encode
from tellapart.data.image import decode


def crop(image, fraction):
    """Return an image without this fraction of its left side, and half of it at the top and at the bottom."""
    width, height = image.size
    return image.crop((int(width * fraction), int(height * fraction / 2), width, height - int(height * fraction / 2)))


def light_copies(image, count, random):
    """Return an image and count - 1 copies of it: slightly cropped, resized, brightened or darkened, recompressed."""
    copies = [image]
    for _ in range(count - 1):
        copy = crop(image, random.uniform(0, 0.04))
        copy = copy.resize([max(8, round(side * random.uniform(0.6, 1.2))) for side in copy.size])
        gain = random.uniform(0.85, 1.15)
        copy = copy.point(lambda level, gain=gain: int(min(255, level * gain)))
        copies.append(Image.fromarray(decode(encode(copy, "JPEG", quality=int(random.integers(50, 95))))))
    return copies

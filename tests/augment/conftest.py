import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="module", params=[1, 3], ids=["grayscale", "color"])
def images(request, small_images, written_digits):
    """20 real images (20, C, S, S) in 0 to 1, channels last in memory as in training."""
    files = small_images if request.param == 3 else written_digits
    pixels = np.stack([np.asarray(Image.open(f).convert("RGB"))[:, :, : request.param] for f in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255

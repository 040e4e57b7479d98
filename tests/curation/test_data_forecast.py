"""The forecast refuses data that are too few before it decodes images and computes features."""

import numpy as np
import pytest

import tellapart
from tellapart.curation import data_forecast
from tellapart.errors import SplitError


@pytest.mark.parametrize(("classes", "each", "stage"), [(200, 3, "audit_dataset"), (3, 12, "candidate_features")])
def test_too_few_images_are_refused_early(monkeypatch, classes, each, stage):
    images = np.random.default_rng(0).integers(0, 256, (classes * each, 16, 16, 3), dtype=np.uint8)
    monkeypatch.setattr(data_forecast, stage, lambda *args, **options: 1 / 0)
    with pytest.raises(SplitError, match=f"of {classes} classes"):
        tellapart.learning_curve((images, np.arange(classes).repeat(each)))

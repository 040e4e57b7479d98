"""`execution.deterministic` restricts PyTorch to deterministic algorithms on a GPU, during training only."""

import os

import pytest
import torch

from folders import QUICK, digit_folder
from tellapart.errors import RecipeError
from tellapart.pipeline.train import train
from tellapart.training.execution.determinism import use_deterministic_algorithms
from tellapart.training.trainer import Trainer

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that there is a GPU; the algorithms are a setting of PyTorch and need none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv(WORKSPACE, raising=False)


def settings():
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warn_only, os.environ.get(WORKSPACE)


@pytest.mark.usefixtures("gpu")
def test_deterministic_algorithms_are_used_inside_the_context_only():
    before = settings()
    with use_deterministic_algorithms(True):
        assert settings() == (True, False, ":4096:8")
    assert settings() == before
    with use_deterministic_algorithms(False):
        assert settings() == before


@pytest.mark.usefixtures("gpu")
def test_the_settings_of_the_user_are_restored(monkeypatch):
    monkeypatch.setenv(WORKSPACE, ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with use_deterministic_algorithms(True):
            assert settings() == (True, False, ":16:8")
        assert settings() == (True, True, ":16:8")
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("gpu")
def test_a_layer_without_a_deterministic_algorithm_is_an_error_of_the_recipe():
    before = settings()
    with pytest.raises(RecipeError) as error, use_deterministic_algorithms(True):
        raise RuntimeError("max_pool3d does not have a deterministic implementation")
    assert "execution.deterministic" in str(error.value)
    assert settings() == before
    with pytest.raises(RuntimeError), use_deterministic_algorithms(True):
        raise RuntimeError("another error")
    assert settings() == before


@pytest.mark.parametrize("enabled", [False, True])
def test_the_key_of_the_recipe_reaches_training(tmp_path, monkeypatch, enabled):
    modes, fit = [], Trainer.fit

    def record_mode(self, network, checkpoint=None):
        modes.append(torch.are_deterministic_algorithms_enabled())
        monkeypatch.undo()  # the network itself is on the CPU
        return fit(self, network, checkpoint)

    monkeypatch.setattr(Trainer, "fit", record_mode)
    monkeypatch.setattr("tellapart.training.execution.determinism.torch.cuda.is_available", lambda: enabled)
    monkeypatch.setattr("tellapart.training.fit.default_device", lambda: torch.device("cpu"))
    digits = digit_folder(tmp_path / "digits", 3, 12)
    train(digits, out=tmp_path / "run", deterministic=True, autotune=False, precision="float32", **QUICK)
    assert modes == [enabled]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_runs_on_a_gpu_have_the_same_bits(tmp_path):
    digits = digit_folder(tmp_path / "digits", 3, 20)
    first, second = (
        train(digits, out=tmp_path / name, deterministic=True, autotune=False, **QUICK).classifier.network.state_dict()
        for name in ("first", "second")
    )
    assert all(torch.equal(value, second[key]) for key, value in first.items())

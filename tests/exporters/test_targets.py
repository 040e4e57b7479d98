import subprocess
import sys

import pytest

import tellapart
from tellapart.errors import ExportError
from tellapart.exporters.export import EXPORTERS
from tellapart.exporters.targets import TARGETS


def test_every_target_has_an_exporter():
    assert list(EXPORTERS) == list(TARGETS)
    suffixes = [target.suffix for target in TARGETS.values()]
    assert len(set(suffixes)) == len(suffixes)


def test_the_command_line_lists_targets_without_importing_torch():
    code = "import sys, tellapart.cli; print('tellapart.exporters.targets' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize("option", ["runtime", "calibration", "max_drop", "min_speedup"])
@pytest.mark.parametrize("to", TARGETS)
def test_an_option_of_another_target_is_rejected(tmp_path, to, option):
    if option in TARGETS[to].options:
        return
    with pytest.raises(ExportError) as error:
        tellapart.export(tmp_path / "model.safetensors", to, **{option: 1.0})
    assert f"--{option.replace('_', '-')}" in str(error.value)


def test_a_limit_that_is_not_finite_is_rejected(tmp_path):
    with pytest.raises(ExportError) as error:
        tellapart.export(tmp_path / "model.safetensors", "onnx-int8", max_drop=float("nan"))
    assert "--max-drop" in str(error.value)

"""Errors: every class has a code of its own, which is a contract, and the command line passes it on."""

import json

import pytest

from folders import run_cli
from tellapart import errors
from tellapart.errors import TellapartError

CODES = {
    "cannot_access",
    "cannot_compare",
    "cannot_ensemble",
    "cannot_explain",
    "cannot_export",
    "cannot_find_label_issues",
    "cannot_save",
    "cannot_serve",
    "cannot_split",
    "cannot_tune",
    "checksum_mismatch",
    "download_failed",
    "format_version",
    "hub",
    "input_shape",
    "interrupted",
    "invalid_checkpoint",
    "invalid_classifier_file",
    "invalid_corruption",
    "invalid_input",
    "invalid_layers",
    "invalid_manifest",
    "invalid_recipe",
    "invalid_option",
    "invalid_slices",
    "invalid_source",
    "invalid_weights",
    "leakage",
    "missing_extra",
    "no_check_images",
    "rank_lost",
    "rank_mismatch",
    "run_exists",
    "runtime_version",
    "server_response",
    "too_many_unreadable",
    "training_diverged",
    "truncated_file",
    "unknown_class",
    "unknown_model",
    "unreadable_image",
    "unsafe_archive",
    "unsafe_file",
}


def classes(base=TellapartError):
    return [each for child in base.__subclasses__() for each in (child, *classes(child))]


def test_codes_are_stable_and_distinct():
    public = [each for each in classes() if each.__module__ == errors.__name__]
    assert sorted(each.code for each in public) == sorted(CODES)


def test_json_has_the_code_of_an_error(capsys, tmp_path):
    code, out, err = run_cli(capsys, "audit", tmp_path / "nothing", "--json")
    assert code == 1
    error = json.loads(out)["error"]
    assert error["code"] == "invalid_source"
    assert error["message"] in err


@pytest.mark.parametrize("command", [("audit",), ("predict", "m"), ("evaluate", "m"), ("train",)])
def test_no_json_without_being_asked(command, capsys, tmp_path):
    code, out, _ = run_cli(capsys, *command, tmp_path / "nothing")
    assert (code, out) == (1, "")

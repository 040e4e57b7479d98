"""`doctor`: the environment, and advice on wrong settings."""

import json

import tellapart
from folders import run_cli


def test_the_doctor_reports_the_version(capsys):
    code, out, _ = run_cli(capsys, "doctor")
    assert code == 0
    assert tellapart.__version__ in out


def test_the_doctor_advises_on_wrong_settings(capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "99")
    monkeypatch.setenv("TELLAPART_CACHE_LIMIT", "a lot")
    code, out, _ = run_cli(capsys, "doctor", "--json")
    diagnosis = json.loads(out)
    assert code == 0
    assert diagnosis["environment"]["extras"]["train"] == "yes"
    assert int(diagnosis["environment"]["machine"]["cores"].split()[0]) >= 1
    assert any("OMP_NUM_THREADS=99" in advice for advice in diagnosis["advice"])
    assert any("TELLAPART_CACHE_LIMIT" in advice for advice in diagnosis["advice"])

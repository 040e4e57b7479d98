"""README and documentation agree with the code."""

import dataclasses
import re
import tomllib
from pathlib import Path

import typer

from tellapart.cli import app
from tellapart.recipe.recipe import Recipe, from_table

ROOT = Path(__file__).parent.parent


def test_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "report.html" in capsys.readouterr().out


def test_commands_named_in_the_documents_exist():
    known = set(typer.main.get_command(app).commands)
    for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"^tellapart ([\w-]+)", text, re.M)) <= known
        for link in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
            assert (path.parent / link).exists(), link


def test_every_key_of_the_recipe_is_documented():
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    for section in dataclasses.fields(Recipe):
        inner = getattr(Recipe(), section.name)
        keys = dataclasses.fields(inner) if dataclasses.is_dataclass(inner) else [section]
        for key in keys:
            assert f"{key.name}`" in text, key.name


def test_layers_name_every_module():
    lint = (ROOT / ".importlinter").read_text(encoding="utf-8")
    modules = {p.stem for p in (ROOT / "src/tellapart").glob("*.py")} - {"__init__", "__main__"}
    assert {m for m in modules if not re.search(rf"\b{m}\b", lint)} == set()


def test_recipe_defaults_build_from_their_own_toml():
    assert from_table(tomllib.loads(Recipe().to_toml())) == Recipe()

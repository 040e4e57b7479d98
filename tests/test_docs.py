"""The documentation builds strictly, with every block and notebook run, and a wrong block ends the build."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_every_page_is_built_with_the_output_of_its_blocks(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").glob("**/*.md")}
    pages |= {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").glob("**/*.ipynb")}
    assert all((site / page).is_file() for page in pages)
    tutorial = (site / "tutorials/digits.html").read_text(encoding="utf-8")
    assert tutorial.count("data:image/jpeg;base64,") > 50  # images
    assert tutorial.count("<svg") >= 3  # curves and a confusion matrix
    assert "weighted avg" in tutorial  # scikit-learn's report
    notebook = (site / "notebooks/first-classifier.html").read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in notebook
    commands = (site / "reference/commands.html").read_text(encoding="utf-8")
    assert all(f"tellapart {name}" in commands for name in ("train", "tune", "ensemble", "push", "doctor"))
    python = (site / "reference/python.html").read_text(encoding="utf-8")
    assert all(f"tellapart.{name}" in python for name in ("train", "cross_validate", "Classifier"))
    assert "Traceback" not in tutorial + notebook


@pytest.mark.slow
def test_no_page_contains_a_local_path(site):
    for page in site.glob("**/*.html"):
        assert str(ROOT) not in page.read_text(encoding="utf-8"), page


@pytest.fixture(scope="module")
def blocks():
    spec = importlib.util.spec_from_file_location("run_blocks", ROOT / "scripts/run_blocks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rendered(blocks, text):
    return blocks.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri="page.md")))


def test_output_of_blocks_is_below_them(blocks):
    text = "```python setup\nx = 20\n```\n```python\nprint(x + 1)\nx + 2\n```\n```console\n$ echo $((4 + 5))\n```\n"
    page = rendered(blocks, text)
    assert re.search(
        r'print\(x \+ 1\)\nx \+ 2\n```\s+```text title="output"\n21\n```\s+```text title="output"\n22', page
    )
    assert "x = 20" not in page
    assert "$ echo $((4 + 5))\n9\n" in page


def test_blocks_in_tabs_are_run_in_place(blocks):
    page = rendered(blocks, '=== "ours"\n\n    ```python\n    for n in range(2):\n        print(n)\n    ```\n')
    assert '    ```text title="output"\n    0\n    1\n    ```' in page


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("python\nraise ValueError('no')", "ValueError: no"),
        ("python\n1 +", "SyntaxError"),
        ("python other\n1 +", "SyntaxError"),
        ("console\n$ false", "$ false"),
        ("console\necho", "'echo'"),
        ("bash\ntellapart trian photos", "KeyError: 'trian'"),
        ("bash\ntellapart train photos --epoch 3", "epoch"),
        ("bash\ntellapart train photos --epochs many", "valid integer"),
        ("bash\npip install 'tellapart[everything]'", "'everything'"),
    ],
)
def test_a_wrong_block_ends_the_build(blocks, block, said):
    with pytest.raises(PluginError, match=r"page\.md") as found:
        rendered(blocks, f"```{block}\n```\n")
    assert said in str(found.value)

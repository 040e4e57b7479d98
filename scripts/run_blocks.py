"""Runs the code blocks of the documents while MkDocs builds them, and shows what they print; a fault ends the build.

After the language a block may say more: `setup` runs and is not shown; `quiet` runs and its output is not shown;
`markdown` runs, and what it prints is part of the page; `other` belongs to another program, shown and not run.

- python: run, each page in a folder of its own and with one set of names; what it prints, and what its last line is
  worth, stands below it.
- console: lines that begin with `$ ` are run by bash; what they print stands below each.
- bash: forms to choose from. Here the command line reads them; tests/test_doc_commands.py runs them, which takes long.
"""

import ast
import contextlib
import io
import logging
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
import tomllib
from pathlib import Path
from typing import Any

import typer
from mkdocs.exceptions import PluginError

from tellapart.cli import app

_LOG = logging.getLogger("mkdocs.hooks.run_blocks")
ROOT = Path(__file__).parents[1]
ELSEWHERE = {"serving.md"}  # its blocks ask a server: tests/test_client.py runs them
_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?: (?P<kind>setup|quiet|markdown|other))?\n(?P<code>.*?)^ *```$", re.M | re.S
)
_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./((?:src|deploy)[^)]*)\)")
_RUN = os.environ.get("RUN_BLOCKS", "1") != "0"  # 0 for a quick look at the words


def on_startup(**_: Any) -> None:
    """Let blocks find the commands that are installed beside this Python, whatever the shell's path is."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page with the output of its blocks."""
    path = page.file.src_uri
    markdown = _OUTSIDE.sub(r"\1 (`\2` in the repository)", markdown)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        names: dict[str, Any] = {"__name__": "__main__"}
        began = time.monotonic()
        try:
            markdown = _BLOCK.sub(lambda match: _block(match, path, names), markdown)
        except (Exception, SystemExit) as error:
            raise PluginError(f"{path}: {type(error).__name__}: {error}") from error
        _LOG.info("%s: its blocks took %.0f s", path, time.monotonic() - began)
        return markdown


def _block(match: re.Match[str], path: str, names: dict[str, Any]) -> str:
    """Return what stands in the place of a block, as far to the right as the block."""
    code = textwrap.dedent(match["code"])
    return textwrap.indent(_shown(match["language"], match["kind"], code, path, names), match["indent"])


def _shown(language: str, kind: str | None, code: str, path: str, names: dict[str, Any]) -> str:
    shown = f"```{language}\n{code}```"
    if kind == "other":
        if language == "python":
            ast.parse(code)
        return shown
    if language == "bash":
        for line in code.replace("\\\n", " ").splitlines():
            _check(line)
        return shown
    if language not in ("python", "console") or path in ELSEWHERE or not _RUN:
        return "" if kind in ("setup", "markdown") else shown
    if language == "console":
        return "```console\n" + "".join(_command(line) for line in code.splitlines()) + "```"
    printed, value = _python(code, path, names)
    if kind:
        return {"setup": "", "quiet": shown, "markdown": printed}[kind]
    return "\n\n".join(filter(None, (shown, _as_output(printed), _as_value(value))))


def _python(code: str, path: str, names: dict[str, Any]) -> tuple[str, Any]:
    """Run code; return what it printed, and what its last line is worth."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, path, "exec"), names)
        value = eval(compile(ast.Expression(last.value), path, "eval"), names) if last else None
    return printed.getvalue(), value


def _as_output(text: str) -> str:
    return f'```text title="output"\n{text.rstrip()}\n```' if text.strip() else ""


def _as_value(value: Any) -> str:
    if value is None:
        return ""
    if hasattr(value, "_repr_html_"):
        return f'<div class="shown">{" ".join(value._repr_html_().split())}</div>'
    return _as_output(repr(value))


def _command(line: str) -> str:
    """Run a line that begins with `$ `, and return it with all that it prints."""
    if not line.startswith("$ "):
        raise ValueError(f"a console block shows commands alone, its output is made: '{line}'")
    settings = {"NO_COLOR": "1", "COLUMNS": "100"}
    found = subprocess.run(
        ["bash", "-c", line[2:]],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if found.returncode:
        raise ValueError(f"'{line}' ended with {found.returncode}: {found.stdout[-2000:]}")
    return f"{line}\n{found.stdout.rstrip()}\n" if found.stdout.strip() else f"{line}\n"


def _check(line: str) -> None:
    """Make sure that the command line takes such a line, and that there are such extras to install."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = {extra for found in re.findall(r"tellapart\[([\w,]+)\]", line) for extra in found.split(",")}
        if unknown := asked - set(extras):
            raise ValueError(f"there is no extra {unknown}: '{line}'")
    if words[:1] == ["tellapart"] and words[1:2] != ["--version"]:
        command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
        command.make_context(words[1], words[2:])


def on_page_content(content: str, **_: Any) -> str:
    """Return the page; wide tables scroll by themselves on a phone."""
    return content.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")

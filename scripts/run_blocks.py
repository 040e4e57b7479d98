"""MkDocs hook that runs the code blocks of the documents and adds their output; an error ends the build.

- `python` blocks run in a temporary folder per page, with shared names. The printed output, and the value of the last
  expression, are added below the block.
- `console` blocks contain lines that start with `$ `. Each is run by bash, and its output is added below it.
- `bash` blocks contain alternatives to choose from. The build only parses them with the command line;
  tests/test_doc_commands.py runs them, which takes long.

A word after the language changes this: `setup` runs the block and hides it; `quiet` runs it and hides the output;
`markdown` runs it and makes the output part of the page; `other` shows code of another program without running it.
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
NOT_RUN = {"serving.md"}  # its blocks need a running server: tests/test_client.py runs them
_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)(?: (?P<kind>setup|quiet|markdown|other))?\n(?P<code>.*?)^ *```$", re.M | re.S
)
_LINK_TO_SOURCE = re.compile(r"\[([^\]]+)\]\(\.\./((?:src|deploy)[^)]*)\)")
_RUN = os.environ.get("RUN_BLOCKS", "1") != "0"  # RUN_BLOCKS=0 builds the text quickly


def on_startup(**_: Any) -> None:
    """Put the folder of this Python on the path, so that blocks find the commands installed with it."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the page with the output of its blocks."""
    path = page.file.src_uri
    markdown = _LINK_TO_SOURCE.sub(r"\1 (`\2` in the repository)", markdown)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        names: dict[str, Any] = {"__name__": "__main__"}
        start = time.monotonic()
        try:
            markdown = _BLOCK.sub(lambda match: _render_block(match, path, names), markdown)
        except (Exception, SystemExit) as error:
            raise PluginError(f"{path}: {type(error).__name__}: {error}") from error
        _LOG.info("%s: ran the blocks in %.0f s", path, time.monotonic() - start)
        return markdown


def _render_block(match: re.Match[str], path: str, names: dict[str, Any]) -> str:
    """Return the text that replaces a block, with the same indentation."""
    code = textwrap.dedent(match["code"])
    return textwrap.indent(_render(match["language"], match["kind"], code, path, names), match["indent"])


def _render(language: str, kind: str | None, code: str, path: str, names: dict[str, Any]) -> str:
    block = f"```{language}\n{code}```"
    if kind == "other":
        if language == "python":
            ast.parse(code)
        return block
    if language == "bash":
        for line in code.replace("\\\n", " ").splitlines():
            _check_command(line)
        return block
    if language not in ("python", "console") or path in NOT_RUN or not _RUN:
        return "" if kind in ("setup", "markdown") else block
    if language == "console":
        return "```console\n" + "".join(_run_command(line) for line in code.splitlines()) + "```"
    output, value = _run_python(code, path, names)
    if kind:
        return {"setup": "", "quiet": block, "markdown": output}[kind]
    return "\n\n".join(filter(None, (block, _format_output(output), _format_value(value))))


def _run_python(code: str, path: str, names: dict[str, Any]) -> tuple[str, Any]:
    """Run code; return the printed output, and the value of the last expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(tree, path, "exec"), names)
        value = eval(compile(ast.Expression(last.value), path, "eval"), names) if last else None
    return output.getvalue(), value


def _format_output(text: str) -> str:
    return f'```text title="output"\n{text.rstrip()}\n```' if text.strip() else ""


def _format_value(value: Any) -> str:
    if value is None:
        return ""
    if hasattr(value, "_repr_html_"):
        return f'<div class="shown">{" ".join(value._repr_html_().split())}</div>'
    return _format_output(repr(value))


def _run_command(line: str) -> str:
    """Run a line that starts with `$ `, and return it with its output."""
    if not line.startswith("$ "):
        raise ValueError(f"expected only lines that start with '$ ' in a console block, found '{line}'")
    settings = {"NO_COLOR": "1", "COLUMNS": "100"}
    process = subprocess.run(
        ["bash", "-c", line[2:]],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if process.returncode:
        raise ValueError(f"'{line}' exited with {process.returncode}: {process.stdout[-2000:]}")
    return f"{line}\n{process.stdout.rstrip()}\n" if process.stdout.strip() else f"{line}\n"


def _check_command(line: str) -> None:
    """Check that the command line accepts a line, and that pyproject.toml has the extras of a `pip install`."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = {extra for names in re.findall(r"tellapart\[([\w,]+)\]", line) for extra in names.split(",")}
        if unknown := named - set(extras):
            raise ValueError(f"unknown extras {unknown} in '{line}'")
    if words[:1] == ["tellapart"] and words[1:2] != ["--version"]:
        command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
        command.make_context(words[1], words[2:])


def on_page_content(content: str, **_: Any) -> str:
    """Return the page with tables that scroll horizontally on narrow screens."""
    return content.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")

"""Optional packages: imported, or their files found, only by the task that needs them."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from tellapart.errors import MissingExtra


def require(module: str, extra: str) -> ModuleType:
    """Import and return `module`; raises `MissingExtra` naming the extra to install when it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        absent = (getattr(error, "name", None) or module).partition(".")[0]
        raise _missing(absent, extra) from error


def package_file(package: str, *parts: str, extra: str) -> Path:
    """Return the path of a data file inside an installed package, without importing the package.

    Raises `MissingExtra` when the package, or the file in it, is absent.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(package, extra)
    path = Path(spec.submodule_search_locations[0], *parts)
    if not path.is_file():
        raise _missing(package, extra)
    return path


def _missing(package: str, extra: str) -> MissingExtra:
    return MissingExtra(
        f"This needs the package '{package}', which is not installed: run `pip install 'tellapart[{extra}]'`."
    )

"""Optional packages: imported, or their files located, only by the task that needs them."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from tellapart.errors import MissingExtraError


def require(module: str, extra: str) -> ModuleType:
    """Import and return `module`; raises `MissingExtraError` with the extra to install if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = (getattr(error, "name", None) or module).partition(".")[0]
        raise _missing_extra(package, extra) from error


def package_file(package: str, *parts: str, extra: str) -> Path:
    """Return the path of a data file of an installed package, without importing the package.

    parts: the components of the path within the package. Raises `MissingExtraError` if the package, or the file in it,
    does not exist.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise _missing_extra(package, extra)
    path = Path(spec.submodule_search_locations[0], *parts)
    if not path.is_file():
        raise _missing_extra(package, extra)
    return path


def _missing_extra(package: str, extra: str) -> MissingExtraError:
    return MissingExtraError(
        f"This requires the package '{package}', which is not installed: run `pip install 'tellapart[{extra}]'`."
    )

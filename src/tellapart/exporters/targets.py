"""The export targets; imports no torch. `tellapart.exporters.export` maps each of them to its exporter."""

from dataclasses import dataclass

from tellapart.errors import ExportError, did_you_mean, printable

_WEB = frozenset({"runtime", "title"})
_INT8 = frozenset({"calibration", "max_drop", "min_speedup"})


@dataclass(frozen=True)
class Target:
    """A format to export to. suffix: of the exported file or folder. options: of `export`, for this target only."""

    suffix: str
    options: frozenset[str] = frozenset()


TARGETS = {
    "onnx": Target(".onnx"),
    "onnx-int8": Target(".int8.onnx", _INT8),
    "executorch": Target(".pte"),
    "executorch-coreml": Target(".coreml.pte"),
    "executorch-int8": Target(".int8.pte", _INT8),
    "web": Target(".web", _WEB),
    "web-file": Target(".html", _WEB),
}


def check_target(to: str) -> None:
    """Raise `ExportError`, which suggests the closest target, for an unknown one."""
    if to not in TARGETS:
        raise ExportError(
            f"Unknown target '{printable(to)}': expected one of {', '.join(TARGETS)}.{did_you_mean(to, TARGETS)}"
        )

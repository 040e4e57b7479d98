"""One named error per kind of fault.

A message is one sentence: what was expected, what was found, and what to do. Programs catch `TellapartError` or a
subclass, or look at `code`, which `--json` and the server's problem documents have too; the wording may change.
"""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import ClassVar


class TellapartError(Exception):
    """The input or the result is bad; the message says what to do. code: stable, for programs."""

    code: ClassVar[str] = "error"


class MissingExtraError(TellapartError):
    """An optional package that this task needs is not installed."""

    code = "missing_extra"


class UnreadableImageError(TellapartError):
    """A file cannot be decoded as an image."""

    code = "unreadable_image"

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"Cannot read {name}: {reason}.")


class SourceError(TellapartError):
    """A folder, manifest, array or built-in dataset does not hold labelled images in a known form."""

    code = "invalid_source"


class ManifestError(SourceError):
    """A manifest has a missing column, an empty or duplicate path, a missing file or an unknown split."""

    code = "invalid_manifest"


class DownloadError(TellapartError):
    """A download failed, or its content does not match the published checksum."""

    code = "download_failed"


class UnsafeArchiveError(TellapartError):
    """An archive has a member outside the folder that it is extracted to."""

    code = "unsafe_archive"


class UnknownClassError(SourceError):
    """Images to evaluate on have a label that is not a class of the classifier."""

    code = "unknown_class"


class TooManyUnreadableError(TellapartError):
    """More images than allowed cannot be read."""

    code = "too_many_unreadable"


class ServeError(TellapartError):
    """The server cannot start."""

    code = "cannot_serve"


class ServerResponseError(TellapartError):
    """A server did not return a prediction; `status` is the HTTP status, None if the server was not reached."""

    code = "server_response"

    def __init__(self, message: str, status: int | None) -> None:
        self.status = status
        super().__init__(message)


class SplitError(TellapartError):
    """The images cannot be divided into independent training, validation and test splits."""

    code = "cannot_split"


class LeakageError(SplitError):
    """The same image, or the same group, is in two splits of a given split."""

    code = "leakage"


class RecipeError(TellapartError):
    """A recipe has an unknown key, or a value of the wrong type or out of range."""

    code = "invalid_recipe"


class OptionError(TellapartError):
    """An option or an environment variable has an invalid value."""

    code = "invalid_option"


class UnknownModelError(TellapartError):
    """There is no network of that name, or it cannot take these images."""

    code = "unknown_model"


class InputShapeError(TellapartError):
    """A network was given images of a shape that it cannot take."""

    code = "input_shape"


class ExplanationError(TellapartError):
    """A heat map, or a search for the nearest images, is not possible for these arguments."""

    code = "cannot_explain"


class SliceError(TellapartError):
    """The columns to slice the test split by do not fit its rows."""

    code = "invalid_slices"


class InvalidCorruptionError(TellapartError):
    """The corruption of images for the robustness test is not possible as asked."""

    code = "invalid_corruption"


class LayerError(TellapartError):
    """The layers of a sequential network do not fit together; the message names the layer."""

    code = "invalid_layers"


class WeightsError(TellapartError):
    """A file of pretrained weights is missing, damaged or not what its name says."""

    code = "invalid_weights"


class RunExistsError(TellapartError):
    """The run directory already exists, and is not overwritten."""

    code = "run_exists"


class CheckpointError(TellapartError):
    """The run cannot be resumed: it has no usable checkpoint, or belongs to other settings or data."""

    code = "invalid_checkpoint"


class TrainingDivergedError(TellapartError):
    """The loss is not finite; the message names the step."""

    code = "training_diverged"


class FileAccessError(TellapartError):
    """A path cannot be used: it is too long, leads to itself, or may not be entered; or the disk is full."""

    code = "cannot_access"


class SaveError(TellapartError):
    """A file could not be written; the previous one is intact."""

    code = "cannot_save"


class ClassifierFileError(TellapartError):
    """A file is not a tellapart classifier."""

    code = "invalid_classifier_file"


class TruncatedFileError(ClassifierFileError):
    """A classifier file is shorter than its header says."""

    code = "truncated_file"


class ChecksumError(ClassifierFileError):
    """The content of a classifier file does not match the checksum stored in it."""

    code = "checksum_mismatch"


class FormatVersionError(ClassifierFileError):
    """A classifier file has a format version that this release does not read."""

    code = "format_version"


class UnsafeFileError(ClassifierFileError):
    """An exported file refers to other files, uses operators outside the ONNX standard, or needs excessive memory."""

    code = "unsafe_file"


class ExportError(TellapartError):
    """A classifier cannot be exported, or the exported file failed the parity check."""

    code = "cannot_export"


class NoCheckImagesError(ExportError):
    """There are no images for the parity check."""

    code = "no_check_images"


class RuntimeVersionError(ExportError):
    """The runtime for an exported classifier is missing, or not the version that it was tested with."""

    code = "runtime_version"


class ImageInputError(TellapartError, ValueError):
    """The input of an estimator is not images with labels; also a `ValueError`, as in scikit-learn."""

    code = "invalid_input"


class TuningError(TellapartError):
    """A study cannot start or continue."""

    code = "cannot_tune"


class EnsembleError(TellapartError):
    """Classifiers cannot be combined, as their classes or preprocessing differ."""

    code = "cannot_ensemble"


class HubError(TellapartError):
    """A model hub refused a download or an upload."""

    code = "hub"


class ComparisonError(TellapartError):
    """Two classifiers cannot be evaluated on the same images."""

    code = "cannot_compare"


class LabelIssuesError(TellapartError):
    """There are too few images to find label errors, or the arguments do not fit together."""

    code = "cannot_find_label_issues"


class RankMismatchError(TellapartError):
    """The processes of a distributed run were started with different data, recipes or releases."""

    code = "rank_mismatch"


class RankLostError(TellapartError):
    """Another process of a distributed run is gone."""

    code = "rank_lost"


class InterruptedTrainingError(TellapartError):
    """A signal, `number`, ended training; its state was saved first."""

    code = "interrupted"

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


# Zero-width joiner and non-joiner, soft hyphen, and the tags of flags, which Python does not count as printable.
_PARTS_OF_WORDS = frozenset(["\u200c", "\u200d", "\u00ad", *map(chr, range(0xE0020, 0xE0080))])


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name closest to `wrong`, or "" when none is close."""
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def printable(name: str) -> str:
    """Return `name` with undecodable bytes and control characters escaped, safe for a terminal or a UTF-8 file.

    Joiners, soft hyphens and tags are part of words and symbols in many languages, and stay.
    """
    decoded = name.encode("utf-8", "backslashreplace").decode("utf-8")
    visible = (c.isprintable() or c in _PARTS_OF_WORDS or unicodedata.category(c) == "Zs" for c in decoded)
    return "".join(c if v else c.encode("unicode_escape").decode() for c, v in zip(decoded, visible, strict=True))


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, printable; its class name if it has no message."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0])


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Return the first few names, quoted and printable, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"'{printable(name)}'" for name in names[:limit]) + more

"""One named error per kind of fault.

Every message is one sentence that says what was expected, what was found, and what to do. The command line prints it
and exits with code 1; a program catches `TellapartError` or one of the classes below.
"""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

_LISTED = 5  # names in a message


class TellapartError(Exception):
    """The input or the result is bad; the message says how to mend it."""


class MissingExtra(TellapartError):
    """An optional package that this task needs is not installed."""


class UnreadableImage(TellapartError):
    """A file cannot be turned into a picture."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"Cannot read {name}: {reason}.")


class BadSource(TellapartError):
    """A folder, manifest, array or named set does not hold labelled pictures in a known form."""


class BadManifest(BadSource):
    """A manifest has a missing column, an empty or duplicate path, a missing file or an unknown split."""


class DownloadFailed(TellapartError):
    """A named set could not be fetched, or what came does not match its published checksum."""


class UnsafeArchive(TellapartError):
    """An archive holds a member that does not belong inside the folder it is extracted to."""


class UnknownClass(BadSource):
    """Pictures that a classifier is judged on carry a label that it does not tell."""


class TooManyUnreadable(TellapartError):
    """More pictures than allowed cannot be read."""


class CannotServe(TellapartError):
    """The server cannot be started."""


class ServerProblem(TellapartError):
    """A server gave no answer; `status` is that of HTTP, None if it was not reached."""

    def __init__(self, message: str, status: int | None) -> None:
        self.status = status
        super().__init__(message)


class CannotSplit(TellapartError):
    """The pictures cannot be divided honestly into training, validation and test parts."""


class LeakedSplit(CannotSplit):
    """The same picture, or the same group, stands in two parts of a given split."""


class BadRecipe(TellapartError):
    """A recipe has an unknown key, or a value of the wrong type or out of range."""


class BadSetting(TellapartError):
    """An environment variable has a value that cannot be understood."""


class UnknownModel(TellapartError):
    """No network of that name, or the network cannot take these pictures."""


class WrongInput(TellapartError):
    """A network was given images of a shape that it cannot take."""


class CannotExplain(TellapartError):
    """What a heat map, or a search for the nearest pictures, was asked of does not fit, or the network has no map."""


class CannotSlice(TellapartError):
    """The columns to slice the test by do not fit its rows."""


class CannotCorrupt(TellapartError):
    """Pictures cannot be corrupted as asked, to measure what that costs."""


class BadLayers(TellapartError):
    """A network described layer by layer does not fit together; the message names the layer."""


class BadWeights(TellapartError):
    """A file of pretrained weights is missing, damaged or not what its name says."""


class RunExists(TellapartError):
    """A run already stands in this folder, and it is not overwritten."""


class BadCheckpoint(TellapartError):
    """No checkpoint of the run can be used, or it belongs to another recipe."""


class TrainingDiverged(TellapartError):
    """The loss is not a finite number; the message names the step."""


class CannotSave(TellapartError):
    """A file could not be written; what stood there before still stands."""


class BadClassifierFile(TellapartError):
    """A file is not a tellapart classifier."""


class CutClassifierFile(BadClassifierFile):
    """A classifier file is shorter than its header says."""


class EditedClassifierFile(BadClassifierFile):
    """A classifier file's content does not match the checksum stored in it."""


class WrongVersionClassifierFile(BadClassifierFile):
    """A classifier file was written in a format version that this release does not read."""


class UnsafeClassifierFile(BadClassifierFile):
    """An exported file asks for other files, for operators that are not ONNX's own, or for absurd amounts of memory."""


class CannotExport(TellapartError):
    """A classifier cannot be exported, or what was exported answers otherwise than the original."""


class BadRuntime(CannotExport):
    """What is to run an exported classifier elsewhere is missing, or is not of the version that it was tested with."""


class BadPictures(TellapartError, ValueError):
    """What an estimator was given is no pictures, or not as many labels; also a `ValueError`, as scikit-learn's are."""


class CannotTune(TellapartError):
    """A search cannot be begun or gone on with: its storage cannot be opened, or it is another one's."""


class CannotCombine(TellapartError):
    """Classifiers cannot be made one: they differ in their classes, or in how they take pictures."""


class HubFailed(TellapartError):
    """A model hub does not give or take what was asked."""


class CannotCompare(TellapartError):
    """Two classifiers cannot be judged on the same pictures."""


class CannotAuditLabels(TellapartError):
    """There is too little to tell wrong labels from right ones by, or what was given does not fit together."""


class RanksDisagree(TellapartError):
    """The processes that train together were started with different data, recipes or releases."""


class RankLost(TellapartError):
    """Another of the processes that train together is gone."""


class Interrupted(TellapartError):
    """The system, or the user, asked training to end by a signal, `number`; its state was saved first."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name closest to `wrong`, or "" when none is close."""
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def printable(name: str) -> str:
    """Return `name` with undecodable bytes and control characters escaped, safe for a terminal or a UTF-8 file."""
    decoded = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode()
        for c in decoded
    )


def listed(names: Sequence[str]) -> str:
    """Return the first few names, quoted and printable, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"'{printable(name)}'" for name in names[:_LISTED]) + more

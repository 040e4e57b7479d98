"""The JSON documents of all requests and responses; the OpenAPI document shows them.

Predictions and model descriptions arrive from the workers as JSON bytes and are sent as they are; tests validate real
responses against these models.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from tellapart.preprocess.settings import PreprocessSettings
from tellapart.serving.capture.estimated_accuracy import NoEstimate

MAX_LABEL_LENGTH = 200
Probability = Annotated[float, Field(ge=0, le=1)]


class PredictionResponse(BaseModel):
    """The prediction for one image."""

    label: str = Field(description="The most probable class.")
    index: int = Field(ge=0, description="The index of the class.")
    probability: Probability
    top: list[tuple[str, Probability]] = Field(description="The most probable classes, with their probabilities.")
    prediction_set: list[str] | None = Field(description="Contains the true class with the coverage of the model.")
    in_distribution: bool | None = Field(description="Whether the image resembles the training images.")
    model: str = Field(description="The first digits of the SHA-256 of the model file.")


class FilePrediction(PredictionResponse):
    """The prediction for one file of a form."""

    path: str = Field(description="The name of the file.")


class FileError(BaseModel):
    """Why there is no prediction for one file of a form."""

    path: str = Field(description="The name of the file.")
    error: str
    code: str
    status: int


class FormPredictions(BaseModel):
    """The predictions for the files of a form, in their order."""

    predictions: list[FilePrediction | FileError]


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: Literal["about:blank"]
    title: str = Field(description="The phrase of the HTTP status.")
    status: int
    detail: str = Field(description="What went wrong, for people; the wording may change.")
    code: str = Field(pattern="^[a-z][a-z0-9_]*$", description="What went wrong, for programs.")


class Liveness(BaseModel):
    """The server is running."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """The server accepts requests."""

    status: Literal["ready"] = "ready"
    outdated_models: int = Field(description="Number of models whose changed file could not be loaded.")


class ModelDescription(BaseModel):
    """A model."""

    model: str = Field(description="The first digits of the SHA-256 of the model file.")
    classes: list[str]
    preprocess: PreprocessSettings
    metrics: dict[str, Any] | None = Field(description="On the test split, with confidence intervals.")
    fingerprint: str | None = Field(description="Of the training data.")
    expected: dict[str, Any] | None = Field(description="Predictions on the validation split, to detect drift.")
    coverage: float | None = Field(description="The nominal coverage of prediction sets.")
    ood_detector: bool = Field(description="Whether the model detects images out of distribution.")


class ModelEntry(BaseModel):
    """A model in the list of models."""

    name: str = Field(description="For the parameter `model` of requests.")
    model: str = Field(description="The first digits of the SHA-256 of the model file; empty while it is loaded.")
    title: str = Field(description="Of the training data.")
    is_outdated: bool = Field(description="Whether its changed file could not be loaded; the log has the reason.")


class ModelList(BaseModel):
    """The models of a server; the first is the default."""

    models: list[ModelEntry]


class Latency(BaseModel):
    """Quantiles of the time from a request to its prediction, in milliseconds."""

    p50: float | None
    p99: float | None


class DriftStatus(BaseModel):
    """Drift from the validation images over the last 24 hours."""

    psi: float = Field(description="The population stability index.")
    critical_value: float = Field(description="What the index exceeds with probability 0.001 without drift.")
    images: int
    alarm: bool = Field(description="Whether the drift is large and statistically significant.")


class AccuracyStatus(BaseModel):
    """The accuracy on the images of the last 24 hours, estimated from calibrated probabilities."""

    images: int
    labels: int = Field(description="Number of labelled images that correct the estimate.")
    value: Probability | None
    low: Probability | None = Field(description="The lower end of the 95% interval.")
    high: Probability | None = Field(description="The upper end of the 95% interval.")
    reason: NoEstimate | None = Field(description="Why there is no estimate.")


class AccuracyDifference(BaseModel):
    """The accuracy of a candidate minus that of the model in use, with its 95% interval."""

    value: float
    low: float
    high: float


class CandidateStatus(BaseModel):
    """A candidate compared with the model in use, on the same images."""

    candidate: str = Field(description="The first digits of the SHA-256 of the candidate's file.")
    compared: int = Field(description="Number of images that both have classified.")
    disagreements: int = Field(description="Of these, with different classes.")
    labelled: int = Field(description="Of the disagreements, with a label.")
    only_current: int = Field(description="Of the labelled disagreements, where only the model in use is right.")
    only_candidate: int = Field(description="Of the labelled disagreements, where only the candidate is right.")
    difference: AccuracyDifference | None = Field(description="On all compared images; null without labels.")
    p_value: Probability = Field(description="Of McNemar's exact test, for a single look.")
    better: Literal["current", "candidate"] | None = Field(description="By the sequential test; null if undecided.")
    labels_needed: int | None = Field(description="About how many more labels a verdict takes; null if very many.")


class ServerStatus(BaseModel):
    """Requests of the last minute, and the last thousand predictions."""

    models: list[str]
    ready: bool
    requests_per_second: float
    latency_ms: Latency
    failed_requests: int
    images_in_progress: int
    predictions: int
    predicted_classes: dict[str, int]
    out_of_distribution: int
    drift: dict[str, dict[str, DriftStatus]] | None = Field(description="By model; null without --capture.")
    accuracy: dict[str, AccuracyStatus] | None = Field(description="By model; null without --capture.")
    candidates: dict[str, CandidateStatus] | None = Field(description="By model; null without --capture.")
    capture_error: str | None = Field(description="Why images cannot be stored.")


class CapturedImage(BaseModel):
    """An image to label."""

    id: str = Field(description="The SHA-256 of the image.")
    model: str
    predicted_label: str
    probability: Probability
    reason: Literal["out_of_distribution", "uncertain", "disagreement"]
    label: str | None


class CapturedImages(BaseModel):
    """The newest images without a label."""

    labelled: int = Field(description="The number of images with a label.")
    unlabelled: int = Field(description="The number of images without a label.")
    classes: dict[str, list[str]] = Field(description="By model.")
    images: list[CapturedImage]


def _check_label(label: str) -> str:
    """Return a label without surrounding whitespace; raises ValueError if it is blank or not printable."""
    if not label.strip() or not label.isprintable():
        raise ValueError("expected printable characters")
    return label.strip()


class LabelRequest(BaseModel):
    """The label of an image."""

    label: Annotated[str, Field(min_length=1, max_length=MAX_LABEL_LENGTH), AfterValidator(_check_label)]

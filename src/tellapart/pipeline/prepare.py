"""The steps before training: update the recipe, audit and split the images, resolve the defaults."""

from dataclasses import dataclass
from pathlib import Path

from tellapart.data.audit import Audit, audit_dataset
from tellapart.data.dataset import ImageDataset
from tellapart.data.seen_overlap import resemblance_warning, set_aside_seen
from tellapart.data.sources import Source, load_dataset
from tellapart.data.split import Splits, check_unreadable_fraction, make_splits, small_test_warning
from tellapart.errors import RecipeError
from tellapart.io.new_directory import folder_name, refuse_existing, refuse_inside
from tellapart.io.run_directory import RunDirectory
from tellapart.models import get_entry
from tellapart.models.sequential import load_layers, parse_layers, to_tables
from tellapart.pipeline.defaults import resolve_defaults
from tellapart.progress import Event, Progress
from tellapart.recipe.duration import parse_duration
from tellapart.recipe.model_names import SEQUENTIAL
from tellapart.recipe.overrides import RecipeOverrides, paths_of
from tellapart.recipe.recipe import Recipe, RecipeLike, as_recipe, load_recipe
from tellapart.runs.run import is_finished, run_identity
from tellapart.training.execution.distributed import was_restarted
from tellapart.training.execution_settings import keep_execution, resolve_execution
from tellapart.training.initialization import apply_base_classifier, seen_before


@dataclass(frozen=True)
class PreparedRun:
    """A run before training. finished: the run in `directory` is already complete."""

    audit: Audit
    splits: Splits
    recipe: Recipe
    identity: str
    directory: Path
    finished: bool

    @property
    def title(self) -> str:
        """The name of the dataset."""
        title = self.audit.dataset.title
        return Path(title).name or title


def prepare_run(
    source: Source, recipe: Recipe, out: Path | None, resume: bool, progress: Progress, purpose: str = ""
) -> PreparedRun:
    """Audit and split the images, and resolve the recipe.

    purpose: part of the identity that distinguishes, for example, a cross-validation from a single training run with
    the same recipe. Raises what `train` raises.
    """
    if recipe.model.name:
        get_entry(recipe.model.name)  # report an unknown name before the audit
    dataset = load_dataset(source, progress)
    directory = out if out is not None else Path("runs") / folder_name(dataset.title)
    refuse_inside(source, directory)
    if not (resume or was_restarted()):
        refuse_existing(directory)
    audit, splits = audit_and_split(dataset, recipe, progress)
    if not purpose and (warning := small_test_warning(audit, splits)):
        progress.warn(Event.SMALL_TEST_WARNING, warning)
    if (saved := RunDirectory(directory).recipe).is_file():
        recipe = keep_execution(recipe, load_recipe(saved))
    recipe = resolve_defaults(apply_base_classifier(recipe, progress), audit, splits, progress)
    recipe = resolve_execution(recipe, len(dataset.classes), progress)
    identity = run_identity(recipe, audit, splits) + purpose
    finished = is_finished(directory, recipe, identity, progress)
    return PreparedRun(audit, splits, recipe, identity, directory, finished)


def audit_and_split(dataset: ImageDataset, recipe: Recipe, progress: Progress) -> tuple[Audit, Splits]:
    """Audit and split a dataset, and report the results; raises what `audit_dataset` and `make_splits` raise.

    Images that the weights or the teacher of the recipe have seen are not in the test split; see `set_aside_seen`.
    """
    audit = audit_dataset(dataset, progress, near_duplicates=recipe.data.near_duplicates)
    progress.report(
        Event.DATASET_LOADED,
        f"{dataset.title}: {len(dataset)} images of {len(dataset.classes)} classes.",
        images=len(dataset),
        classes=len(dataset.classes),
    )
    for warning in audit.warnings():
        progress.warn(Event.AUDIT_WARNING, warning)
    check_unreadable_fraction(audit, recipe.data.max_unreadable_fraction)
    seen = seen_before(recipe)
    splits = set_aside_seen(audit, make_splits(audit, recipe.data, recipe.seed), seen, recipe.data)
    for name, images in seen.items():
        if warning := resemblance_warning(audit, splits.test, name, images):
            progress.warn(Event.AUDIT_WARNING, warning)
    progress.report(
        Event.SPLIT,
        f"Split: {len(splits.train)} training, {len(splits.validation)} validation, {len(splits.test)} test images "
        f"({splits.rule}).",
        train=len(splits.train),
        validation=len(splits.validation),
        test=len(splits.test),
    )
    return audit, splits


def override_recipe(recipe: RecipeLike, settings: RecipeOverrides) -> Recipe:
    """Return the recipe with some settings replaced; raises `RecipeError`, or `LayerError` for a network definition."""
    recipe = as_recipe(recipe)
    values = paths_of(settings)
    if values.get("model.head") == "linear":
        values["model.head"] = []
    if "model.layers" in values:
        values["model.layers"] = to_tables(parse_layers(values["model.layers"]))
    model = str(values.get("model.name") or recipe.model.name or "")
    if model.endswith(".toml"):
        values |= {"model.name": SEQUENTIAL, "model.layers": load_layers(Path(model))}
    elif model != SEQUENTIAL and recipe.model.layers:
        values["model.layers"] = None  # the layers of the recipe belong to another network
    if {"schedule.max_time", "schedule.epochs"} <= values.keys():
        raise RecipeError("epochs and max_time both set the duration of training: set only one.")
    if {"schedule.max_time", "schedule.preset"} <= values.keys():
        raise RecipeError("preset and max_time both set the duration of training: set only one.")
    if {"schedule.epochs", "schedule.preset"} & values.keys():
        values["schedule.max_time"] = None
    elif "schedule.max_time" in values:
        values["schedule.max_time"] = parse_duration(values["schedule.max_time"])
    return recipe.with_values(values) if values else recipe

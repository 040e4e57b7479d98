"""`tuning.html`: the report of a search, in one file without external resources."""

import optuna
from optuna.trial import TrialState

from tellapart.evaluation.report import plots
from tellapart.evaluation.report.templates import templates
from tellapart.tuning.result import TuningResult, describe_selection
from tellapart.tuning.search_space import SearchSpace
from tellapart.tuning.selection import N_DRAWS

_MIN_TRIALS = 4  # for an analysis of importance


def render(title: str, study: optuna.Study, result: TuningResult, space: SearchSpace) -> str:
    """Return the report as HTML."""
    environment = templates()
    environment.filters["describe"] = space.describe
    complete = [trial for trial in result.trials if trial["state"] == "complete"]
    scores = [trial["validation"][result.metric] for trial in complete]
    return environment.get_template("tuning.html").render(
        title=title,
        summary=describe_selection(result.selection, result.metric),
        n_complete=len(complete),
        n_pruned=len(result.trials) - len(complete),
        selection=result.selection,
        test=result.run.metrics["test"],
        n_draws=N_DRAWS,
        history=plots.search_history(
            [trial["number"] + 1 for trial in complete],
            scores,
            scores[0],
            f"{result.metric.replace('_', ' ')} on validation",
        ),
        importance=_plot_importance(study),
        trials=result.trials,
        recipe=result.recipe.to_toml(),
    )


def _plot_importance(study: optuna.Study) -> str:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < _MIN_TRIALS or len({trial.value for trial in complete}) == 1:
        return ""
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    importance = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(complete[-1].params))
    return plots.importances(importance) if importance else ""

"""`tuning.html`: what a search has tried and found, in one file that asks nothing of the network."""

import optuna
from optuna.trial import TrialState

from tellapart.evaluation.report import plots
from tellapart.evaluation.report.templates import templates
from tellapart.tuning.result import Tuned
from tellapart.tuning.search_space import Space
from tellapart.tuning.selection import DRAWS

_FEWEST = 4  # trials that something can be told from


def render(title: str, study: optuna.Study, tuned: Tuned, space: Space, sentence: str) -> str:
    """Return the page as HTML."""
    environment = templates()
    environment.filters["place"] = space.described
    complete = [trial for trial in tuned.trials if trial["state"] == "complete"]
    figures = [trial["validation"][tuned.metric] for trial in complete]
    return environment.get_template("tuning.html").render(
        title=title,
        sentence=sentence,
        complete=len(complete),
        given_up=len(tuned.trials) - len(complete),
        choice=tuned.choice,
        test=tuned.run.metrics["test"] if tuned.run else None,
        draws=DRAWS,
        history=plots.search_history(
            [trial["number"] + 1 for trial in complete],
            figures,
            figures[0],
            f"{tuned.metric.replace('_', ' ')} on validation",
        ),
        importance=_importance(study),
        trials=tuned.trials,
        recipe=tuned.recipe.to_toml(),
    )


def _importance(study: optuna.Study) -> str:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < _FEWEST or len({trial.value for trial in complete}) == 1:
        return ""
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(complete[-1].params))
    return plots.importances(found) if found else ""

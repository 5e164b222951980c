"""A search and its trials as clients see them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from services.training.recipe import Recipe
from services.training.search.repository import JobState
from services.training.search.space import Dimension, base_point, changes, differences, trial_recipe
from services.training.search.steering import budget
from services.training.search.tables import SearchRow, TrialRow
from shared.clock import unix

_T = TypeVar("_T")


def search_object(row: SearchRow, trials: Sequence[TrialRow]) -> dict[str, Any]:
    """A search with what it has found so far; `best` is null until a trial is complete.

    `tries_base` says whether the space holds the base recipe, which then is the first trial. `importance` is there when
    the search has ended.
    """
    counts = Counter(trial.status for trial in trials)
    used = budget(row)
    base = Recipe.model_validate(row.recipe)
    space = {name: Dimension.model_validate(one) for name, one in row.space.items()}
    return {
        "id": row.id,
        "object": "search",
        "created_at": unix(row.created_at),
        "finished_at": unix(row.finished_at),
        "status": row.status,
        "model": row.base_model,
        "init_adapter": row.init_adapter_id,
        "dataset": row.dataset_id,
        "training_file": row.training_file,
        "validation_file": row.validation_file,
        "recipe": differences(base),
        "space": {name: _shown(one) for name, one in _in_order(space).items()},
        "tries_base": len(base_point(space, base)) == len(space),
        "trials": row.trials,
        "minutes": row.minutes,
        "parallel": row.parallel,
        "pruning": row.pruning,
        "seed": row.seed,
        "suffix": row.suffix,
        "metadata": row.metadata_,
        "prompt": row.prompt,
        "max_passage_tokens": row.max_passage_tokens,
        "progress": {
            "trials": {name: counts[name] for name in ("running", "complete", "pruned", "stopped", "failed")},
            "seconds": round(used.used, 1),
        },
        "best": best_object(row, trials),
        "importance": row.importance,
        "error": row.error,
    }


def best_object(row: SearchRow, trials: Sequence[TrialRow]) -> dict[str, Any] | None:
    """The complete trial with the lowest validation loss; `recipe` trains the same again as a fine-tuning job.

    `changes` are the fields in which it differs from the search's base recipe, those that follow from others too.
    """
    best = best_trial(trials)
    if best is None:
        return None
    base = Recipe.model_validate(row.recipe)
    recipe = trial_recipe(base, best.params)
    return {
        "trial": best.id,
        "number": best.number,
        "value": best.value,
        "params": _in_order(best.params),
        "recipe": differences(recipe),
        "changes": changes(base, recipe),
        "fine_tuned_model": best.model_id,
    }


def best_trial(trials: Sequence[TrialRow]) -> TrialRow | None:
    """Of equals the one that came first."""
    complete = [trial for trial in trials if trial.status == "complete" and trial.value is not None]
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)


def trial_object(trial: TrialRow, job: JobState | None) -> dict[str, Any]:
    """One trial; `value` is its lowest validation loss so far, `curve` every validation, `error` why it has no end."""
    return {
        "id": trial.id,
        "object": "search.trial",
        "search": trial.search_id,
        "number": trial.number,
        "created_at": unix(trial.created_at),
        "finished_at": unix(trial.finished_at),
        "status": trial.status,
        "params": _in_order(trial.params),
        "value": trial.value,
        "curve": trial.curve,
        "job": trial.job_id,
        "progress": job.progress if job is not None and trial.status == "running" else None,
        "fine_tuned_model": trial.model_id,
        "error": trial.reason,
    }


def _in_order(fields: Mapping[str, _T]) -> dict[str, _T]:
    """As the recipe has them; the database sorts them by the length of their names."""
    return {name: fields[name] for name in Recipe.model_fields if name in fields}


def _shown(one: Dimension) -> dict[str, Any]:
    if one.choices is not None:
        return {"choices": list(one.choices)}
    return {"low": one.low, "high": one.high, "log": one.log, "step": one.step}

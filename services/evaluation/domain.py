"""The experiment as a graph of steps: what may start, what an ended step changes, how choices are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

StepStatus = Literal["waiting", "running", "succeeded", "failed", "cancelled", "skipped"]
StepKind = Literal["variants", "train", "raft_dataset", "evaluate", "choose", "compare", "release", "report"]
ExperimentStatus = Literal["running", "succeeded", "failed", "cancelled"]

EVALUATIONS_AT_ONCE = 2
"""One evaluation fills a generation batch; a second keeps it full while the first runs out. More would only take the
worker's slots away from the short jobs that steer the experiment: with no limit, the end of a training waited minutes
to be heard."""
_SATISFIED = frozenset({"succeeded", "skipped"})
_NEEDED: dict[StepKind, tuple[str, ...]] = {
    "variants": ("variants",),
    "train": ("adapter_id",),
    "raft_dataset": ("dataset_id",),
    "evaluate": ("metrics", "prompt_tokens"),
    "compare": ("winner", "verdict"),
    "release": ("release_id", "model_id"),
}
"""What a step's result must hold for the steps after it."""


@dataclass(frozen=True)
class Step:
    """One unit of an experiment. `params` says what to do; `subject_id` is the row that it makes, if it makes one."""

    name: str
    kind: StepKind
    depends_on: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    subject_id: str | None = None
    status: StepStatus = "waiting"
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Ended:
    """The one end of a step's job."""

    step: str
    status: Literal["succeeded", "failed", "cancelled"]
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Experiment:
    """An experiment as it stands; `steps` keeps the order of the plan."""

    steps: Mapping[str, Step]
    metric: str
    status: ExperimentStatus = "running"
    error: Mapping[str, Any] | None = None

    def result(self, step: str) -> Mapping[str, Any]:
        """The result of a step that succeeded."""
        found = self.steps[step].result
        if found is None:
            raise LookupError(f"the step {step!r} has no result yet")
        return found


@dataclass(frozen=True)
class Start:
    """Order the step's work."""

    step: Step


@dataclass(frozen=True)
class Stop:
    """Cancel the step's work: the experiment is over without it."""

    step: Step


Action = Start | Stop


def advance(experiment: Experiment, ended: Ended | None = None) -> tuple[Experiment, tuple[Action, ...]]:
    """Record what ended and say what to do next; the same end told twice changes nothing.

    An experiment that is over starts nothing more, it only records how its running steps end.
    """
    recorded = _record(experiment, ended) if ended else experiment
    if recorded.status != "running":
        return recorded, ()
    lost = next((step for step in recorded.steps.values() if step.status in {"failed", "cancelled"}), None)
    if lost is not None:
        return _close(replace(recorded, status="failed", error=_blame(lost)))
    return _start_what_is_ready(recorded)


def cancel(experiment: Experiment) -> tuple[Experiment, tuple[Action, ...]]:
    """Stop an experiment; one that is over stays as it is."""
    if experiment.status != "running":
        return experiment, ()
    error = {"code": "cancelled", "message": "The experiment was cancelled.", "step": None}
    return _close(replace(experiment, status="cancelled", error=error))


@dataclass(frozen=True)
class Measured:
    """A candidate's mean on validation and what it costs."""

    key: str
    variant: str
    mean: float
    trained: bool
    retrieves: bool
    prompt_tokens: float

    @property
    def preference(self) -> tuple[float, bool, bool, float, str]:
        """Sorts the best first; of equals, the one without training, then without retrieval, then the shorter."""
        return (-self.mean, self.trained, self.retrieves, self.prompt_tokens, self.key)


@dataclass(frozen=True)
class Choice:
    """What validation decided: one candidate per variant, and the winner among those."""

    candidates: Mapping[str, str]
    """variant name → candidate key"""
    winner: str


def choose(measured: Sequence[Measured]) -> Choice:
    """The best candidate of each variant and the best of these; ties go to the cheaper."""
    ranked = sorted(measured, key=lambda one: one.preference)
    best = {one.variant: one for one in reversed(ranked)}
    order = dict.fromkeys(one.variant for one in measured)
    return Choice(candidates={name: best[name].key for name in order}, winner=ranked[0].variant)


def _record(experiment: Experiment, ended: Ended) -> Experiment:
    step = experiment.steps.get(ended.step)
    if step is None or step.status != "running":
        return experiment
    missing = [key for key in _NEEDED.get(step.kind, ()) if key not in (ended.result or {})]
    if ended.status == "succeeded" and missing:
        message = f"The work succeeded but its result lacks {', '.join(missing)}."
        error = {"code": "incomplete_result", "message": message}
        return _with_step(experiment, replace(step, status="failed", error=error))
    return _with_step(
        experiment, replace(step, status=ended.status, result=dict(ended.result or {}), error=ended.error)
    )


def _start_what_is_ready(experiment: Experiment) -> tuple[Experiment, tuple[Action, ...]]:
    actions: list[Action] = []
    # plan order is a topological order, so one pass also starts what a step decided here and now sets free
    for name in experiment.steps:
        step = experiment.steps[name]
        if step.status != "waiting" or not _is_ready(experiment, step):
            continue
        if step.kind == "evaluate" and _evaluating(experiment) >= EVALUATIONS_AT_ONCE:
            continue
        if step.kind == "choose":
            step = replace(step, status="succeeded", result=_choose(experiment, step))
        elif step.kind == "release" and experiment.result(step.depends_on[0])["verdict"] != "better":
            step = replace(step, status="skipped")
        else:
            step = replace(step, status="running")
            actions.append(Start(step))
        experiment = _with_step(experiment, step)
    if all(step.status in _SATISFIED for step in experiment.steps.values()):
        experiment = replace(experiment, status="succeeded")
    return experiment, tuple(actions)


def _is_ready(experiment: Experiment, step: Step) -> bool:
    return all(experiment.steps[name].status in _SATISFIED for name in step.depends_on)


def _evaluating(experiment: Experiment) -> int:
    return sum(step.kind == "evaluate" and step.status == "running" for step in experiment.steps.values())


def _choose(experiment: Experiment, step: Step) -> dict[str, Any]:
    measured = []
    for name in step.depends_on:
        validation, result = experiment.steps[name], experiment.result(name)
        traits = validation.params
        measured.append(
            Measured(
                key=traits["candidate"],
                variant=traits["variant"],
                mean=result["metrics"][experiment.metric],
                trained=traits["trained"],
                retrieves=traits["retrieves"],
                prompt_tokens=result["prompt_tokens"],
            )
        )
    choice = choose(measured)
    return {"candidates": dict(choice.candidates), "winner": choice.winner}


def _close(experiment: Experiment) -> tuple[Experiment, tuple[Action, ...]]:
    """Stop what runs; its jobs still end one by one and are recorded as they do. What waits never starts."""
    running = [step for step in experiment.steps.values() if step.status == "running"]
    for step in list(experiment.steps.values()):
        if step.status == "waiting":
            experiment = _with_step(experiment, replace(step, status="skipped"))
    return experiment, tuple(Stop(step) for step in running)


def _blame(step: Step) -> dict[str, Any]:
    cause = dict(step.error or {})
    message = cause.get("message") or f"Its work was {step.status}."
    return {
        "code": cause.get("code") or f"step_{step.status}",
        "message": f"The step {step.name!r} {_PAST[step.status]}: {message}",
        "step": step.name,
    }


_PAST = {"failed": "failed", "cancelled": "was cancelled"}


def _with_step(experiment: Experiment, step: Step) -> Experiment:
    return replace(experiment, steps={**experiment.steps, step.name: step})

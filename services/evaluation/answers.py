"""What the routes of experiments and evaluations answer, for the API's description."""

from typing import Any, Literal

from pydantic import ConfigDict

from services.evaluation.domain import ExperimentStatus, StepKind, StepStatus
from services.evaluation.schemas import Split
from services.evaluation.spec import ExperimentSpec
from shared.answers import Answer
from shared.jobs.answers import Failure, Progress

JobStatus = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
_EXPERIMENT: dict[str, Any] = {
    "id": "exp_abc",
    "object": "experiment",
    "name": "tickets",
    "status": "running",
    "error": None,
    "dataset": "ds_abc",
    "vector_store": None,
    "base_model": "smollm2-135m-instruct",
    "spec": {
        "name": "tickets",
        "dataset_id": "ds_abc",
        "vector_store_id": None,
        "base_model": "smollm2-135m-instruct",
        "variants": ["base", "tuned"],
        "metric": "exact_match",
        "margin": 0.02,
        "seed": 0,
        "recipe": "default",
        "raft": {
            "rows_limit": 240,
            "k": 3,
            "gold_share": 0.9,
            "recipe": {"epochs": 1.0, "max_validation_examples": 48},
        },
        "shots": [{"question": "My screen is black.", "answer": "Hardware"}],
        "shot_counts": [0, 3, 6],
        "retrieval_ks": [1, 3],
        "max_passage_tokens": 256,
        "max_tokens": 16,
        "validation_limit": None,
        "release_as": "tickets",
    },
    "created_at": 1767225600,
    "finished_at": None,
}
_PROGRESS: dict[str, Any] = {
    "done": 40.0,
    "total": 120.0,
    "unit": "steps",
    "message": "loss 0.412",
    "seconds_left": 96.5,
    "at": 1767225660.2,
}
_PASSAGE: dict[str, Any] = {
    "file_id": "file-abc",
    "document": "screens.md",
    "passage_id": "psg_abc",
    "title": "Screens › Black screens",
    "text": "A black screen is a fault of the hardware.",
    "score": 0.91,
}


class ExperimentError(Answer):
    """Why an experiment ended before its report."""

    code: str
    message: str
    step: str | None
    """The name of the step that is to blame; null where it was cancelled."""


class ExperimentObject(Answer):
    """An experiment without its steps."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXPERIMENT]})

    id: str
    object: Literal["experiment"]
    name: str
    status: ExperimentStatus
    error: ExperimentError | None
    dataset: str
    """Its id."""
    vector_store: str | None
    """Its id; null: no variant retrieves."""
    base_model: str
    spec: ExperimentSpec
    """The whole order, with every default and the worked examples that were drawn."""
    created_at: int
    """Unix seconds."""
    finished_at: int | None
    """Unix seconds; null until it is over."""


class StepFailure(Answer):
    """Why a step did not succeed."""

    code: str
    message: str
    param: str | None = None
    """The field that is at fault."""


class ExperimentStep(Answer):
    """One unit of an experiment, with the state of the job that does its work."""

    name: str
    kind: StepKind
    status: StepStatus
    depends_on: list[str]
    """Names of the steps that come before it."""
    subject_id: str | None
    """The evaluation or dataset that it makes."""
    job_id: str | None
    """Null until the step begins; a choice has none."""
    job_status: JobStatus | None
    progress: Progress | None
    seconds_left: float | None
    """An estimate while its job runs; null while there is none."""
    started_at: int | None
    """Unix seconds."""
    finished_at: int | None
    """Unix seconds."""
    result: dict[str, Any] | None
    """What came of it; its fields depend on the kind."""
    error: StepFailure | None


class ExperimentWithSteps(ExperimentObject):
    """An experiment with every step, in the order of the plan."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                _EXPERIMENT
                | {
                    "steps": [
                        {
                            "name": "train tuned",
                            "kind": "train",
                            "status": "running",
                            "depends_on": [],
                            "subject_id": None,
                            "job_id": "ftjob-abc",
                            "job_status": "running",
                            "progress": _PROGRESS,
                            "seconds_left": 96.5,
                            "started_at": 1767225602,
                            "finished_at": None,
                            "result": None,
                            "error": None,
                        }
                    ]
                }
            ]
        }
    )

    steps: list[ExperimentStep]


class Latency(Answer):
    """Milliseconds per answer."""

    p50: float
    p95: float


class EvaluationSummary(Answer):
    """What the answers add up to."""

    examples: int
    metrics: dict[str, float]
    """Mean score by metric."""
    retrieval_hits: float | None
    """The share of questions for which a gold document was retrieved; null where none is known."""
    prompt_tokens: float
    """Mean per answer."""
    completion_tokens: float
    """Mean per answer."""
    cut_off: int
    """Answers that reached the limit of tokens."""
    latency_ms: Latency


class EvaluationObject(Answer):
    """One model's answers on one split; its state is its job's."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "eval_abc",
                    "object": "evaluation",
                    "status": "succeeded",
                    "model": "smollm2-135m-instruct",
                    "variant": None,
                    "dataset": "ds_abc",
                    "split": "validation",
                    "purpose": "single",
                    "metric": "exact_match",
                    "experiment": None,
                    "job_id": "job_abc",
                    "progress": _PROGRESS
                    | {"done": 100.0, "total": 100.0, "unit": "answers", "message": "", "seconds_left": 0.0},
                    "error": None,
                    "summary": {
                        "examples": 100,
                        "metrics": {"exact_match": 0.62, "token_f1": 0.71},
                        "retrieval_hits": None,
                        "prompt_tokens": 48.2,
                        "completion_tokens": 3.1,
                        "cut_off": 0,
                        "latency_ms": {"p50": 120.0, "p95": 310.5},
                    },
                    "created_at": 1767225600,
                }
            ]
        }
    )

    id: str
    object: Literal["evaluation"]
    status: JobStatus
    model: str
    """The model id that is asked."""
    variant: str | None
    """The id of the variant that has this model id."""
    dataset: str
    split: Split
    purpose: Literal["choice", "test", "single"]
    """An experiment's choice on validation or its test, or asked for by itself."""
    metric: str
    experiment: str | None
    job_id: str
    progress: Progress | None
    error: Failure | None
    summary: EvaluationSummary | None
    """Null until all is answered."""
    created_at: int
    """Unix seconds."""


class RetrievedPassage(Answer):
    """A passage that the model read."""

    file_id: str
    document: str
    """The file's name."""
    passage_id: str
    title: str
    """The headings that the passage stands under."""
    text: str
    score: float


class EvaluationAnswer(Answer):
    """One answer beside its question and the reference, which are empty once their dataset is deleted."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "ex_abc",
                    "object": "evaluation.answer",
                    "question": "My screen is black.",
                    "reference": "Hardware",
                    "answer": "Hardware",
                    "scores": {"exact_match": 1.0, "token_f1": 1.0},
                    "retrieval_hit": True,
                    "passages": [_PASSAGE],
                    "finish_reason": "stop",
                    "prompt_tokens": 48,
                    "completion_tokens": 3,
                    "latency_ms": 118.4,
                }
            ]
        }
    )

    id: str
    """The example's."""
    object: Literal["evaluation.answer"]
    question: str
    reference: str
    answer: str
    scores: dict[str, float]
    """By metric; those of retrieval only where a gold document is known."""
    retrieval_hit: bool | None
    """Whether a gold document was retrieved; null where none is known or nothing was retrieved."""
    passages: list[RetrievedPassage] | None
    """Null where the model retrieves nothing."""
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float

"""What the Evals routes answer, for the API's description."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from services.evaluation.evals.domain import ItemStatus, RunStatus
from services.evaluation.evals.run_schemas import DataSource
from services.evaluation.evals.schemas import Criterion
from shared.answers import Answer
from shared.jobs.answers import Progress

_ITEM: dict[str, Any] = {"ticket": "My screen is black.", "label": "Hardware"}
_RATE: dict[str, Any] = {"mean": 0.75, "low": 0.3, "high": 0.95}
_USAGE: dict[str, Any] = {"prompt_tokens": 128, "completion_tokens": 12, "total_tokens": 140, "cached_tokens": 0}


class TokenUsage(Answer):
    """OpenAI's token counts; `cached_tokens` is 0, for nothing is kept between requests."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class ModelUsage(TokenUsage):
    """What one model was asked in a run, for answers and for grades."""

    model_name: str
    invocation_count: int


class EvalError(Answer):
    """Why there is no answer, no grade or no run."""

    code: str
    message: str


class ShownDataSource(Answer):
    """What the rows look like."""

    type: Literal["custom"]
    schema_: dict[str, Any] = Field(alias="schema")
    """JSON Schema of what criteria see: the row as `item` and, where answers are expected, `sample`."""


class EvalObject(Answer):
    """OpenAI's Eval."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "eval_abc",
                    "object": "eval",
                    "name": "support tickets",
                    "data_source_config": {
                        "type": "custom",
                        "schema": {
                            "type": "object",
                            "properties": {
                                "item": {
                                    "type": "object",
                                    "properties": {"ticket": {"type": "string"}, "label": {"type": "string"}},
                                    "required": ["ticket", "label"],
                                }
                            },
                            "required": ["item"],
                        },
                    },
                    "testing_criteria": [
                        {
                            "type": "string_check",
                            "name": "right label",
                            "input": "{{sample.output_text}}",
                            "reference": "{{item.label}}",
                            "operation": "ilike",
                        }
                    ],
                    "metadata": {"team": "support"},
                    "created_at": 1767225600,
                    "updated_at": 1767225600,
                }
            ]
        }
    )

    id: str
    object: Literal["eval"]
    name: str
    data_source_config: ShownDataSource
    testing_criteria: list[Criterion]
    metadata: dict[str, str] | None
    created_at: int
    """Unix seconds."""
    updated_at: int
    """Unix seconds."""


class DeletedEval(Answer):
    """An eval that is gone with its runs."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"object": "eval.deleted", "deleted": True, "eval_id": "eval_abc"}]}
    )

    object: Literal["eval.deleted"]
    deleted: Literal[True]
    eval_id: str


class ResultCounts(Answer):
    """Finished items by how they ended."""

    total: int
    passed: int
    failed: int
    errored: int


class PassRate(Answer):
    """The share that passed among those with a verdict, with Wilson's 95 % limits."""

    mean: float
    low: float
    high: float


class CriterionResult(Answer):
    """How one criterion went."""

    testing_criteria: str
    """Its name."""
    passed: int
    failed: int
    errored: int
    """Items without a verdict; they are in no rate."""
    pass_rate: PassRate | None
    """Null until an item has a verdict."""


class EvalRunObject(Answer):
    """OpenAI's run of an eval as far as it is; ours beside it are `pass_rate`, `progress` and `job_id`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "evalrun_abc",
                    "object": "eval.run",
                    "eval_id": "eval_abc",
                    "name": "the base model",
                    "model": "smollm2-135m-instruct",
                    "status": "completed",
                    "data_source": {
                        "type": "completions",
                        "model": "smollm2-135m-instruct",
                        "source": {"type": "file_id", "id": "file-abc"},
                        "input_messages": {
                            "type": "template",
                            "template": [{"role": "user", "content": "Hardware or Software? {{item.ticket}}"}],
                        },
                    },
                    "error": None,
                    "report_url": None,
                    "metadata": None,
                    "result_counts": {"total": 4, "passed": 3, "failed": 1, "errored": 0},
                    "per_testing_criteria_results": [
                        {
                            "testing_criteria": "right label",
                            "passed": 3,
                            "failed": 1,
                            "errored": 0,
                            "pass_rate": _RATE,
                        }
                    ],
                    "per_model_usage": [{"model_name": "smollm2-135m-instruct", "invocation_count": 4, **_USAGE}],
                    "pass_rate": _RATE,
                    "progress": None,
                    "job_id": "job_abc",
                    "created_at": 1767225600,
                }
            ]
        }
    )

    id: str
    object: Literal["eval.run"]
    eval_id: str
    name: str
    model: str | None
    """The model that answers; null where rows bring their answers."""
    status: RunStatus | Literal["paused"]
    data_source: DataSource
    """As it was sent."""
    error: EvalError | None
    report_url: None
    metadata: dict[str, str] | None
    result_counts: ResultCounts
    per_testing_criteria_results: list[CriterionResult]
    per_model_usage: list[ModelUsage]
    pass_rate: PassRate | None
    """Null until an item has a verdict."""
    progress: Progress | None
    """Null before the run begins, and once it is over."""
    job_id: str
    created_at: int
    """Unix seconds."""


class DeletedEvalRun(Answer):
    """A run that is gone with its items."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"object": "eval.run.deleted", "deleted": True, "run_id": "evalrun_abc"}]}
    )

    object: Literal["eval.run.deleted"]
    deleted: Literal[True]
    run_id: str


class SampleMessage(Answer):
    """A message as a model read or wrote it."""

    role: str
    content: str


class EvalCitation(Answer):
    """A passage that stands behind an answer."""

    file_id: str
    document: str
    """The file's name."""
    passage_id: str
    title: str
    """The headings that the passage stands under."""
    text: str
    score: float


class EvalSample(Answer):
    """What a model was asked and said; null is what is not known."""

    input: list[SampleMessage]
    output: list[SampleMessage]
    """One message, or none where there is no answer."""
    model: str | None
    finish_reason: str | None
    usage: TokenUsage | None
    error: EvalError | None
    seed: int | None
    temperature: float | None
    top_p: float | None
    max_completion_tokens: int | None
    citations: list[EvalCitation] | None = None
    """Of an answer that retrieval backs."""


class GradeSample(EvalSample):
    """What a grading model was asked and said."""

    label: str | None = None
    """Of a `label_model` grader: the label that was understood."""


class GradeObject(Answer):
    """One criterion's word on an item. With an `error` there is no score, and the item did not pass."""

    name: str
    type: Literal["string-check-grader", "text-similarity-grader", "score-model-grader", "label-model-grader"]
    passed: bool
    score: float | None
    sample: GradeSample | None
    """Null where no model wrote a verdict."""
    error: EvalError | None


class OutputItemObject(Answer):
    """OpenAI's output item: one row with its answer and its grades."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "outputitem_abc",
                    "object": "eval.run.output_item",
                    "eval_id": "eval_abc",
                    "run_id": "evalrun_abc",
                    "status": "pass",
                    "datasource_item_id": 0,
                    "datasource_item": _ITEM,
                    "results": [
                        {
                            "name": "right label",
                            "type": "string-check-grader",
                            "passed": True,
                            "score": 1.0,
                            "sample": None,
                            "error": None,
                        }
                    ],
                    "sample": {
                        "input": [{"role": "user", "content": "Hardware or Software? My screen is black."}],
                        "output": [{"role": "assistant", "content": "Hardware"}],
                        "model": "smollm2-135m-instruct",
                        "finish_reason": "stop",
                        "usage": _USAGE,
                        "error": None,
                        "seed": 42,
                        "temperature": 0.0,
                        "top_p": None,
                        "max_completion_tokens": 8,
                    },
                    "created_at": 1767225600,
                }
            ]
        }
    )

    id: str
    object: Literal["eval.run.output_item"]
    eval_id: str
    run_id: str
    status: ItemStatus
    datasource_item_id: int
    """The row's place in the data source, from 0."""
    datasource_item: dict[str, Any]
    """The row itself."""
    results: list[GradeObject]
    """None where there was no answer to grade."""
    sample: EvalSample
    created_at: int
    """Unix seconds."""

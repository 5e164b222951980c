"""What the evaluation service's routes take and give."""

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from services.evaluation.spec import BASELINE, NEED_DOCUMENTS, VARIANTS, ExperimentSpec, RaftSpec, Recipe, VariantName
from services.evaluation.tables import Answer, Evaluation, ExperimentRow, StepRow
from shared.body import Body
from shared.clock import unix
from shared.errors import InvalidInput
from shared.jobs import Job

Split = Literal["train", "validation", "test"]
_QUICK = {
    "recipe": {"max_steps": 12, "max_validation_examples": 32},
    "validation_limit": 24,
    "shot_counts": (3,),
    "retrieval_ks": (1,),
}
_QUICK_RAFT = RaftSpec(rows_limit=48, k=2, recipe={"max_steps": 6, "max_validation_examples": 12})
_Passages = Annotated[int, Field(ge=1, le=20)]


class CreateExperiment(Body):
    """Everything but dataset and base model has a default that suits two CPU cores."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"dataset": "ds_abc", "vector_store": "vs_abc", "base_model": "smollm2-135m-instruct", "quick": True}
            ]
        },
    )

    dataset: str
    vector_store: str | None = None
    """Documents for the variants with retrieval; without it those variants are left out."""
    base_model: str
    name: Annotated[str, Field(max_length=200)] | None = None
    variants: list[VariantName] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    metric: str = "exact_match"
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.02
    recipe: Recipe = "default"
    raft: RaftSpec = RaftSpec()
    shot_counts: Annotated[list[Annotated[int, Field(ge=0, le=32)]], Field(min_length=1, max_length=8)] = Field(
        [0, 3, 6]
    )
    retrieval_ks: Annotated[list[_Passages], Field(min_length=1, max_length=8)] = Field([1, 3])
    max_passage_tokens: Annotated[int, Field(ge=16, le=8192)] = 256
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    validation_limit: Annotated[int, Field(ge=1)] | None = None
    release_as: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    quick: bool = False
    """A small run that shows the whole path; explicit fields win over it."""

    def to_spec(self, dataset_name: str) -> ExperimentSpec:
        """The complete order."""
        name = self.name or dataset_name
        release_as = self.release_as or _slug(name)
        if release_as == self.base_model:
            raise InvalidInput(
                "The winner cannot be served under the base model's own id; give another release_as.",
                param="release_as",
            )
        given = {key: getattr(self, key) for key in self.model_fields_set & set(ExperimentSpec.model_fields)}
        quick: dict[str, Any] = {**_QUICK, "raft": _QUICK_RAFT} if self.quick else {}
        fields = quick | given | {"variants": self._wanted(), "name": name, "release_as": release_as}
        fields |= {"dataset_id": self.dataset, "vector_store_id": self.vector_store}
        return ExperimentSpec.model_validate(fields)

    def _wanted(self) -> tuple[VariantName, ...]:
        able = [name for name in VARIANTS if self.vector_store is not None or name not in NEED_DOCUMENTS]
        wanted = set(self.variants or able) | {BASELINE}
        unable = [name for name in VARIANTS if name in wanted and name not in able]
        if unable:
            raise InvalidInput(f"{', '.join(unable)} need documents: give a vector_store.", param="vector_store")
        if wanted == {BASELINE}:
            raise InvalidInput("An experiment compares at least one variant with the base.", param="variants")
        return tuple(name for name in VARIANTS if name in wanted)


class CreateEvaluation(Body):
    """Ask one model every question of a split. The test split is a look: it is counted."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "smollm2-135m-instruct", "dataset": "ds_abc", "limit": 100}]},
    )

    model: str | None = None
    """Any model id that chat completions take."""
    variant: str | None = None
    dataset: str
    split: Split = "validation"
    metric: str = "exact_match"
    limit: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> "CreateEvaluation":
        if (self.model is None) == (self.variant is None):
            raise ValueError("give either model or variant")
        return self


def experiment_object(row: ExperimentRow) -> dict[str, Any]:
    """An experiment without its steps."""
    return {
        "id": row.id,
        "object": "experiment",
        "name": row.name,
        "status": row.status,
        "error": row.error,
        "dataset": row.dataset_id,
        "vector_store": row.vector_store_id,
        "base_model": row.base_model,
        "spec": row.spec,
        "created_at": unix(row.created_at),
        "finished_at": unix(row.finished_at),
    }


def step_object(row: StepRow, job: Job | None) -> dict[str, Any]:
    """A step with its job's progress, so that one answer draws every bar."""
    progress = job.progress if job is not None else None
    running = row.status == "running" and job is not None and job.status == "running"
    return {
        "name": row.name,
        "kind": row.kind,
        "status": row.status,
        "depends_on": row.depends_on,
        "subject_id": row.subject_id,
        "job_id": row.job_id,
        "job_status": job.status if job is not None else None,
        "progress": progress,
        "seconds_left": progress.get("seconds_left") if progress and running else None,
        "started_at": unix(job.started_at) if job is not None else None,
        "finished_at": unix(job.finished_at) if job is not None else None,
        "result": row.result,
        "error": row.error,
    }


def evaluation_object(row: Evaluation, job: Job) -> dict[str, Any]:
    """An evaluation; its state is its job's."""
    return {
        "id": row.id,
        "object": "evaluation",
        "status": job.status,
        "model": row.model,
        "variant": row.variant_id,
        "dataset": row.dataset_id,
        "split": row.split,
        "purpose": row.purpose,
        "metric": row.metric,
        "experiment": row.experiment_id,
        "job_id": row.job_id,
        "progress": job.progress,
        "error": job.error,
        "summary": row.summary,
        "created_at": unix(row.created_at),
    }


def answer_object(row: Answer, question: str, reference: str) -> dict[str, Any]:
    """One answer beside the question and the reference."""
    return {
        "id": row.example_id,
        "object": "evaluation.answer",
        "question": question,
        "reference": reference,
        "answer": row.answer,
        "scores": row.scores,
        "retrieval_hit": row.retrieval_hit,
        "passages": row.passages,
        "finish_reason": row.finish_reason,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "latency_ms": row.latency_ms,
    }


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:64] or "experiment"

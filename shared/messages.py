"""Every message between services: commands are orders, the one event is the fact that a job ended.

A command names its queue and carries ids only; what to do lies in the row that the id names.
"""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict


class Command(BaseModel):
    """An order to one service; `kind` is stable on the wire and in the jobs table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    queue: ClassVar[str]


class ImportDataset(Command):
    """Parse, clean, split and freeze the dataset's source file."""

    kind: ClassVar[str] = "data.import_dataset"
    queue: ClassVar[str] = "data"
    dataset_id: str


class BuildRaftDataset(Command):
    """Derive a training set whose questions carry gold and distractor passages as the retriever returns them."""

    kind: ClassVar[str] = "data.build_raft_dataset"
    queue: ClassVar[str] = "data"
    dataset_id: str


class TrainAdapter(Command):
    """Train a LoRA adapter as the training job's row describes."""

    kind: ClassVar[str] = "training.train_adapter"
    queue: ClassVar[str] = "training"
    training_job_id: str


class IndexVectorStore(Command):
    """Cut the files into passages, embed and store them."""

    kind: ClassVar[str] = "retrieval.index_vector_store"
    queue: ClassVar[str] = "retrieval.batch"
    vector_store_id: str
    file_ids: list[str]


class EvaluateVariant(Command):
    """Answer every example of a split with one variant and score the answers."""

    kind: ClassVar[str] = "evaluation.evaluate_variant"
    queue: ClassVar[str] = "evaluation"
    evaluation_id: str


class JobEnded(Command):
    """The event: a job reached its one terminal state. Sent once, by the transition itself (a database trigger)."""

    job_id: str
    kind_ended: str
    status: Literal["succeeded", "failed", "cancelled"]
    subject_id: str | None = None
    parent_id: str | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class AdvanceExperiment(JobEnded):
    """Tell an experiment that a job it ordered ended; `parent_id` is the experiment."""

    kind: ClassVar[str] = "evaluation.advance_experiment"
    queue: ClassVar[str] = "evaluation"

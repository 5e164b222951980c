"""Every message between services: commands are orders, the one event is the fact that a job ended.

A command names its queue and carries ids only; what to do lies in the row that the id names. The exceptions are the
`Order…` commands: they ask another service for a thing whose row that service must create itself, so they carry the
whole order.
"""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from shared.body import Body


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


class PurgeExpired(Command):
    """Delete the project's files and unfinished uploads whose time is over; the dispatcher orders it when needed.

    Result: `files`, `uploads`.
    """

    kind: ClassVar[str] = "data.purge_expired"
    queue: ClassVar[str] = "data"


class TrainAdapter(Command):
    """Train a LoRA adapter as the training job's row describes."""

    kind: ClassVar[str] = "training.train_adapter"
    queue: ClassVar[str] = "training"
    training_job_id: str


class ImportAdapter(Command):
    """Check an adapter that a client uploaded and make it a model."""

    kind: ClassVar[str] = "training.import_adapter"
    queue: ClassVar[str] = "training"
    adapter_id: str


class ExportModel(Command):
    """Write an adapter's, a checkpoint's or a whole model's weights as one file for other programs.

    Result: `file_id`, `filename`, `bytes`, `sha256`, `model`, `format`; of merged models and GGUF also `dtype`,
    `largest_logit_difference`, `logit_spread`, `same_next_tokens` and `positions`.
    """

    kind: ClassVar[str] = "training.export_model"
    queue: ClassVar[str] = "training"
    weights_id: str
    model: str
    """The id that was asked for: a variant's or a release's may name these weights too."""
    format: Literal["adapter", "merged", "gguf"]
    dtype: Literal["auto", "float32", "bfloat16", "float16", "q8_0"]


class DeleteWeights(Command):
    """Delete an adapter or a checkpoint by its id, its bytes too. From the order on nothing answers with it."""

    kind: ClassVar[str] = "training.delete_weights"
    queue: ClassVar[str] = "training"
    weights_id: str


class ReleaseTraining(Command):
    """Let go of what an ended training job still holds: files, the state to go on from. A trigger orders it.

    Not on the queue of trainings: it is a moment's work, and what is held may be large.
    """

    kind: ClassVar[str] = "training.release"
    queue: ClassVar[str] = "search"
    training_job_id: str


class SteerSearch(Command):
    """Look at a search and its trials and do what is next; sent when one was validated, and when the time is over."""

    kind: ClassVar[str] = "search.steer"
    queue: ClassVar[str] = "search"
    search_id: str


class IndexVectorStore(Command):
    """Cut the files that wait for this job into passages, embed and store them."""

    kind: ClassVar[str] = "retrieval.index_vector_store"
    queue: ClassVar[str] = "retrieval.batch"
    vector_store_id: str


class FreeVectorStore(Command):
    """Give back the passages of a store whose time is over; one that was used since is looked at again later."""

    kind: ClassVar[str] = "retrieval.free_vector_store"
    queue: ClassVar[str] = "retrieval.batch"
    vector_store_id: str


class EvaluateVariant(Command):
    """Answer every example of a split with one variant and score the answers."""

    kind: ClassVar[str] = "evaluation.evaluate_variant"
    queue: ClassVar[str] = "evaluation"
    evaluation_id: str


class RunEval(Command):
    """Ask the run's model about every row that has no answer yet, and grade what it says."""

    kind: ClassVar[str] = "evaluation.run_eval"
    queue: ClassVar[str] = "evaluation"
    eval_run_id: str


class OrderTraining(Command):
    """Create a training job's row under the job's own id (`ftjob-…`) and train it.

    Result: `adapter_id`, `model_id`, `train_seconds`, `trained_tokens`, `metrics`.
    """

    kind: ClassVar[str] = "training.order_adapter"
    queue: ClassVar[str] = "training"
    dataset_id: str
    base_model: str
    recipe: str | dict[str, Any]
    """A recipe's name, or differences to the default recipe."""
    prompt: dict[str, Any]
    """A PromptSpec: the layout in which the adapter will be served."""
    max_passage_tokens: int | None = None
    """The budget for all passages of a row together, the same as when serving; None keeps them whole."""
    init_adapter_id: str | None = None
    suffix: str
    seed: int


class OrderRaftDataset(Command):
    """Create the dataset row `dataset_id` (the sender chose the id) and build it from `source_dataset_id`.

    Each kept training example gets `k` passages as the vector store returns them; a share `gold_share` of the rows
    is sure to hold a gold passage. Result: `dataset_id`, `sizes`.
    """

    kind: ClassVar[str] = "data.order_raft_dataset"
    queue: ClassVar[str] = "data"
    dataset_id: str
    source_dataset_id: str
    vector_store_id: str
    k: int
    rows_limit: int
    gold_share: float
    seed: int


class VariantRetrieval(Body):
    """Which passages a variant is given: `k` of them, together at most `max_passage_tokens` tokens."""

    model_config = ConfigDict(frozen=True)

    vector_store_id: str
    k: int
    max_passage_tokens: int


class VariantSampling(Body):
    """How a variant decodes; temperature 0 is greedy."""

    model_config = ConfigDict(frozen=True)

    temperature: float
    max_tokens: int


class OrderedVariant(BaseModel):
    """One variant wanted: `key` is the sender's own name for it in the answer, `name` is for people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    name: str
    base_model: str
    adapter_id: str | None = None
    prompt: dict[str, Any] | None = None
    """A PromptSpec, or None for the question alone."""
    retrieval: VariantRetrieval | None = None
    sampling: VariantSampling


class OrderVariants(Command):
    """Create variants and their prompts; equal content in a project is one variant, however often ordered.

    Result: `variants` {key: {`variant_id`, `model_id`}}.
    """

    kind: ClassVar[str] = "generation.order_variants"
    queue: ClassVar[str] = "generation.batch"
    variants: tuple[OrderedVariant, ...]


class OrderRelease(Command):
    """Point the stable model id `model_id` (an alias) at a variant, with the evidence for it.

    Result: `release_id`, `model_id`.
    """

    kind: ClassVar[str] = "generation.order_release"
    queue: ClassVar[str] = "generation.batch"
    model_id: str
    variant_id: str
    evidence: dict[str, Any]


class DeleteExpiredCompletions(Command):
    """Delete the project's stored completions whose time is over; ordered with them, one for every day.

    Result: `completions`.
    """

    kind: ClassVar[str] = "generation.delete_expired_completions"
    queue: ClassVar[str] = "generation.batch"


class CompareVariants(Command):
    """Compare an experiment's final variants on the test split: intervals, verdicts, the report without a release."""

    kind: ClassVar[str] = "evaluation.compare_variants"
    queue: ClassVar[str] = "evaluation"
    experiment_id: str


class WriteReport(Command):
    """Finish an experiment's report (with its release, if there is one) and render it as Markdown and HTML."""

    kind: ClassVar[str] = "evaluation.write_report"
    queue: ClassVar[str] = "evaluation"
    experiment_id: str


class RunBatch(Command):
    """Check a batch's input file and ask its lines; only those that have no answer yet, when it runs again."""

    kind: ClassVar[str] = "evaluation.run_batch"
    queue: ClassVar[str] = "evaluation"
    batch_id: str


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


class AdvanceSearch(JobEnded):
    """Tell a search that a trial's job ended; `parent_id` is the search."""

    kind: ClassVar[str] = "search.advance"
    queue: ClassVar[str] = "search"


class FinishBatch(JobEnded):
    """Write a batch's answers to files, however the job ended that asked for them; `subject_id` is the batch."""

    kind: ClassVar[str] = "evaluation.finish_batch"
    queue: ClassVar[str] = "evaluation"


INTERNAL_KINDS = frozenset(
    command.kind
    for command in (
        PurgeExpired,
        DeleteExpiredCompletions,
        DeleteWeights,
        ReleaseTraining,
        SteerSearch,
        FreeVectorStore,
        AdvanceExperiment,
        AdvanceSearch,
        FinishBatch,
    )
)
"""What services owe to what was ordered before: no client ordered it, so none may cancel or pause it."""

"""What the data service answers, for the API's description."""

from typing import Any, Literal

from pydantic import ConfigDict

from services.data.domain import Split
from services.data.raft import GoldState
from services.data.report_answers import ImportReport, RaftReport
from shared.answers import Answer
from shared.jobs.answers import Failure, Progress

A_FILE: dict[str, Any] = {
    "id": "file-abc",
    "object": "file",
    "bytes": 18432,
    "created_at": 1767225600,
    "filename": "questions.jsonl",
    "purpose": "fine-tune",
    "status": "processed",
    "expires_at": None,
    "status_details": None,
}
_DATASET_ID = "ds_abc"
_A_DATASET: dict[str, Any] = {
    "id": _DATASET_ID,
    "object": "dataset",
    "created_at": 1767225600,
    "name": "questions",
    "status": "ready",
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "sizes": {"train": 700, "validation": 100, "test": 200},
    "spec": {"documents_key": None, "split": {"train": 0.7, "validation": 0.1, "test": 0.2}, "seed": 0},
    "lineage": {
        "file_id": A_FILE["id"],
        "filename": "questions.jsonl",
        "file_sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    },
    "job_id": "job_abc",
    "progress": None,
    "error": None,
}
_AN_EXAMPLE: dict[str, Any] = {
    "id": f"{_DATASET_ID}-0",
    "object": "dataset.example",
    "position": 0,
    "split": "train",
    "messages": [{"role": "user", "content": "How long does the kettle take to boil?"}],
    "answer": "Three minutes.",
    "documents": ["kettle.md"],
    "cluster": "kettle.md",
    "metadata": {"kind": "fact"},
    "provenance": {"file_id": A_FILE["id"], "line": 1},
    "passages": None,
}


class FileObject(Answer):
    """OpenAI's FileObject."""

    model_config = ConfigDict(json_schema_extra={"examples": [A_FILE]})

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    """Unix seconds."""
    filename: str
    purpose: str
    """What a client chose; `batch_output` or `fine-tune-results` where we wrote it."""
    status: Literal["processed"]
    expires_at: int | None
    """Unix seconds; null: kept until it is deleted."""
    status_details: None


class DeletedFile(Answer):
    """A file that is gone."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": A_FILE["id"], "object": "file", "deleted": True}]})

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class SplitSizes(Answer):
    """Examples a split."""

    train: int
    validation: int
    test: int


class Shares(Answer):
    """The share of the examples that each split was to get; they add up to 1."""

    train: float
    validation: float
    test: float


class ImportSpec(Answer):
    """What an import was asked for."""

    documents_key: str | None
    split: Shares
    seed: int


class RaftDatasetSpec(Answer):
    """What a retrieval-aware training set was asked for."""

    source_dataset_id: str
    vector_store_id: str
    k: int
    """Passages a row."""
    rows_limit: int
    gold_share: float
    seed: int


class FileLineage(Answer):
    """The file that an imported dataset is made of."""

    file_id: str
    filename: str
    file_sha256: str


class RaftLineage(Answer):
    """What a retrieval-aware training set is made of."""

    dataset_id: str
    dataset_sha256: str
    vector_store_id: str


class NoLineage(Answer):
    """Of a retrieval-aware training set that is not ready."""


class ListedDataset(Answer):
    """A dataset without its quality report."""

    model_config = ConfigDict(json_schema_extra={"examples": [_A_DATASET]})

    id: str
    object: Literal["dataset"]
    created_at: int
    """Unix seconds."""
    name: str
    status: Literal["pending", "ready", "failed"]
    sha256: str | None
    """Of content, splits and clusters, in order: equal content has equal hashes; null until it is ready."""
    sizes: SplitSizes | None
    """Null until it is ready."""
    spec: ImportSpec | RaftDatasetSpec
    lineage: FileLineage | RaftLineage | NoLineage
    job_id: str | None
    """The job that makes it."""
    progress: Progress | None
    error: Failure | None


class DatasetObject(ListedDataset):
    """A dataset with its quality report."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                _A_DATASET
                | {
                    "report": {
                        "examples": 288,
                        "splits": {
                            "train": {"examples": 240, "gold": {"retrieved": 216, "withheld": 24}, "passages": 720},
                            "validation": {"examples": 48, "gold": {"retrieved": 48}, "passages": 144},
                            "test": {"examples": 0, "gold": {}, "passages": 0},
                        },
                        "warnings": [],
                    },
                    "sizes": {"train": 240, "validation": 48, "test": 0},
                    "spec": {
                        "source_dataset_id": "ds_xyz",
                        "vector_store_id": "vs_abc",
                        "k": 3,
                        "rows_limit": 240,
                        "gold_share": 0.9,
                        "seed": 0,
                    },
                    "lineage": {
                        "dataset_id": "ds_xyz",
                        "dataset_sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
                        "vector_store_id": "vs_abc",
                    },
                }
            ]
        }
    )

    report: ImportReport | RaftReport | None
    """Null until it is ready."""


class DeletedDataset(Answer):
    """A dataset that is gone."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"id": _DATASET_ID, "object": "dataset", "deleted": True}]}
    )

    id: str
    object: Literal["dataset"]
    deleted: Literal[True]


class Turn(Answer):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class ShownPassage(Answer):
    """A passage that a row shows; `score` is comparable within the row only."""

    id: str
    document_id: str
    document: str
    """The document's file name within the corpus."""
    file_id: str
    title: str
    text: str
    score: float


class FromLine(Answer):
    """Where an imported example stood."""

    file_id: str
    line: int


class FromExample(Answer):
    """What a retrieval-aware row was made of."""

    example_id: str
    gold: GoldState
    """Whether the row shows a passage that holds the answer, and how that came to be there or not."""
    gold_rank: int | None
    """The first such passage's place, from 0."""
    hidden_passages: int
    """Passages left out because later splits ask about their documents."""


class ExampleObject(Answer):
    """One example of a dataset."""

    model_config = ConfigDict(json_schema_extra={"examples": [_AN_EXAMPLE]})

    id: str
    object: Literal["dataset.example"]
    position: int
    """From 0, in the order of the source."""
    split: Split
    messages: list[Turn]
    """What was said before the answer."""
    answer: str
    """The reference answer."""
    documents: list[str]
    """File names of the documents that hold the answer; empty when unknown."""
    cluster: str
    """The group that is never torn apart by splits and is resampled as one."""
    metadata: dict[str, Any]
    provenance: FromLine | FromExample
    passages: list[ShownPassage] | None
    """What a retrieval-aware row shows, in this order; null in other datasets."""

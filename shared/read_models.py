"""What services publish to each other to read: light declarations of other services' tables. Never write through these.

Row-level security applies to them as to every table. The columns here are a contract between services; a table may
have more.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

_MOMENT = sa.TIMESTAMP(timezone=True)


def _table(table: str, /, **columns: sa.types.TypeEngine[Any]) -> sa.TableClause:
    return sa.table(table, *(sa.column(column, kind) for column, kind in columns.items()))


files = _table(
    "files",
    id=sa.Text(),
    project_id=sa.Text(),
    filename=sa.Text(),
    purpose=sa.Text(),
    bytes=sa.BigInteger(),
    sha256=sa.Text(),
    blob_key=sa.Text(),
    status=sa.Text(),
    created_at=_MOMENT,
)
"""data: uploaded bytes."""

datasets = _table(
    "datasets",
    id=sa.Text(),
    project_id=sa.Text(),
    name=sa.Text(),
    status=sa.Text(),
    sha256=sa.Text(),
    sizes=JSONB(),
    report=JSONB(),
    lineage=JSONB(),
    spec=JSONB(),
    created_at=_MOMENT,
)
"""data: immutable versions of examples."""

examples = _table(
    "examples",
    id=sa.Text(),
    project_id=sa.Text(),
    dataset_id=sa.Text(),
    position=sa.Integer(),
    split=sa.Text(),
    messages=JSONB(),
    answer=sa.Text(),
    documents=ARRAY(sa.Text()),
    cluster=sa.Text(),
    metadata=JSONB(),
    provenance=JSONB(),
    passages=JSONB(),
)
"""data: chat messages with a reference answer and gold document keys."""

adapters = _table(
    "adapters",
    id=sa.Text(),
    project_id=sa.Text(),
    model_id=sa.Text(),
    base_model=sa.Text(),
    blob_key=sa.Text(),
    bytes=sa.BigInteger(),
    job_id=sa.Text(),
    dataset_id=sa.Text(),
    recipe=JSONB(),
    metrics=JSONB(),
    train_seconds=sa.Float(),
    trained_tokens=sa.BigInteger(),
    created_at=_MOMENT,
)
"""training: LoRA weights."""

checkpoints = _table(
    "checkpoints",
    id=sa.Text(),
    project_id=sa.Text(),
    job_id=sa.Text(),
    step=sa.Integer(),
    model_id=sa.Text(),
    base_model=sa.Text(),
    blob_key=sa.Text(),
    bytes=sa.BigInteger(),
    created_at=_MOMENT,
)
"""training: LoRA weights of single steps; the last three of a job, and the best."""

training_jobs = _table(
    "training_jobs",
    id=sa.Text(),
    project_id=sa.Text(),
    init_adapter_id=sa.Text(),
    resume_blob_key=sa.Text(),
    resume_bytes=sa.BigInteger(),
)
"""training: what is or was trained, and from which weights; its state is the `jobs` row of the same id.

`resume_bytes` is what an interrupted run goes on from, as long as `resume_blob_key` names it.
"""

adapter_imports = _table("adapter_imports", id=sa.Text(), project_id=sa.Text(), job_id=sa.Text())
"""training: adapters that clients bring; one that was taken in is an adapter of the same id."""

held_files = _table("held_files", owner_id=sa.Text(), project_id=sa.Text(), blob_key=sa.Text(), bytes=sa.BigInteger())
"""training: what unfinished jobs, searches and imports read, whatever became of its `files` row."""

searches = _table("searches", id=sa.Text(), project_id=sa.Text(), status=sa.Text(), init_adapter_id=sa.Text())
"""training: searches for a recipe, under way while `running` or `paused`."""

vector_stores = _table(
    "vector_stores",
    id=sa.Text(),
    project_id=sa.Text(),
    name=sa.Text(),
    status=sa.Text(),
    embedder=sa.Text(),
    created_at=_MOMENT,
)
"""retrieval: corpora."""

vector_store_files = _table(
    "vector_store_files",
    vector_store_id=sa.Text(),
    file_id=sa.Text(),
    project_id=sa.Text(),
    status=sa.Text(),
    usage_bytes=sa.BigInteger(),
)
"""retrieval: the files of a corpus; `usage_bytes` is what the passages of an indexed one take."""

documents = _table(
    "documents",
    id=sa.Text(),
    project_id=sa.Text(),
    vector_store_id=sa.Text(),
    file_id=sa.Text(),
    key=sa.Text(),
    title=sa.Text(),
)
"""retrieval: documents of a corpus; `key` is the file name that examples' gold documents refer to."""

passages = _table(
    "passages",
    id=sa.Text(),
    project_id=sa.Text(),
    vector_store_id=sa.Text(),
    document_id=sa.Text(),
    position=sa.Integer(),
    title=sa.Text(),
    text=sa.Text(),
    tokens=sa.Integer(),
)
"""retrieval: chunks of documents, without their vectors."""

variants = _table(
    "variants",
    id=sa.Text(),
    project_id=sa.Text(),
    model_id=sa.Text(),
    base_model=sa.Text(),
    adapter_id=sa.Text(),
    prompt_id=sa.Text(),
    retrieval=JSONB(),
    sampling=JSONB(),
    created_at=_MOMENT,
)
"""generation: what answers a question."""

evaluations = _table(
    "evaluations",
    id=sa.Text(),
    project_id=sa.Text(),
    experiment_id=sa.Text(),
    variant_id=sa.Text(),
    model=sa.Text(),
    dataset_id=sa.Text(),
    split=sa.Text(),
    purpose=sa.Text(),
    metric=sa.Text(),
    summary=JSONB(),
    created_at=_MOMENT,
)
"""evaluation: one model's scored answers to one split; `summary` is there once they all are."""

releases = _table("releases", id=sa.Text(), project_id=sa.Text(), model_id=sa.Text(), variant_id=sa.Text())
"""generation: stable model ids that point to a variant."""

stored_completions = _table("stored_completions", id=sa.Text(), project_id=sa.Text(), bytes=sa.BigInteger())
"""generation: answers that are kept; `bytes` is what one takes."""

project_quotas = _table(
    "project_quotas",
    project_id=sa.Text(),
    requests_per_minute=sa.BigInteger(),
    tokens_per_minute=sa.BigInteger(),
    tokens_per_month=sa.BigInteger(),
    stored_bytes=sa.BigInteger(),
    training_jobs_per_day=sa.BigInteger(),
    training_jobs_at_once=sa.BigInteger(),
)
"""gateway: what a project may use instead of the server's defaults (NULL); 0 is no limit."""

project_usage = _table("project_usage", project_id=sa.Text(), month=sa.Date(), tokens=sa.BigInteger())
"""gateway: tokens of a calendar month (UTC); shared/quotas.py adds to it for every service."""

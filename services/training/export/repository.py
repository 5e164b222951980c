"""Every query of exports: from a model id to the weights that answer under it, and what is known of them."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.training.export.errors import ModelNotFound, NothingToExport
from services.training.repository import is_vector_store
from services.training.tables import AdapterRow, CheckpointRow, TrainingJob
from shared import read_models as others
from shared.weights import are_there


@dataclass(frozen=True)
class Weights:
    """An adapter's, a checkpoint's or a whole fine-tuned model's weights, and where they come from."""

    id: str
    model_id: str
    base_model: str
    blob_key: str
    recipe: dict[str, Any]
    metrics: dict[str, Any]
    created_at: datetime
    job: TrainingJob | None
    """None for uploaded adapters."""
    step: int | None
    """Of a checkpoint."""


@dataclass(frozen=True)
class DataSource:
    """What was learned from: its id here, and the sha256 of its content, None once it is deleted."""

    what: str
    sha256: str | None


@dataclass(frozen=True)
class Score:
    """The mean of one metric over one split's answers."""

    model: str
    with_weights: bool
    """False for what the weights were compared with."""
    data: str
    experiment: str | None
    metric: str
    examples: int
    mean: float | None


def weights_of_model(session: Session, model: str) -> Weights:
    """The weights behind a model id; a variant's or a release's are its adapter's.

    ModelNotFound where nothing of the project has the id, NothingToExport where it has no weights of its own.
    """
    found = _by(session, model_id=model)
    if found is not None:
        return found
    variants, releases = others.variants, others.releases
    released = sa.select(releases.c.variant_id).where(releases.c.model_id == model).scalar_subquery()
    query = sa.select(variants.c.adapter_id, variants.c.base_model)
    row = session.execute(query.where(sa.or_(variants.c.model_id == model, variants.c.id == released))).first()
    if row is None:
        raise ModelNotFound(
            f"There is no fine-tuned model {model!r} in this project. GET /v1/models lists what there is.",
            param="model",
        )
    if row.adapter_id is None:
        raise NothingToExport(
            f"{model} is {row.base_model} with a prompt: it has no adapter, so there are no weights to export. Its "
            "prompt is at GET /v1/variants.",
            param="model",
        )
    return weights(session, row.adapter_id)


def weights(session: Session, weights_id: str) -> Weights:
    """The weights of that id; ModelNotFound once they are deleted."""
    found = _by(session, id=weights_id)
    if found is None:
        raise ModelNotFound(f"The weights {weights_id} are gone.", param="model")
    return found


def data_sources(session: Session, weights: Weights) -> list[DataSource]:
    """The dataset or files that the weights learned from, with their hashes as far as they are still here."""
    job = weights.job
    if job is None:
        return []
    named = [
        ("dataset", job.dataset_id, others.datasets),
        ("training file", job.training_file, others.files),
        ("validation file", job.validation_file, others.files),
        ("replay file", job.replay_file, others.files),
    ]
    found = []
    for word, name, table in named:
        if name is not None and is_vector_store(name):
            found.append(
                DataSource(
                    f"documents of the vector store `{name}`, as it was on the day of the export",
                    _corpus_hash(session, name),
                )
            )
        elif name is not None:
            sha256 = session.execute(sa.select(table.c.sha256).where(table.c.id == name)).scalar_one_or_none()
            found.append(DataSource(f"{word} `{name}`", sha256))
    return found


def _corpus_hash(session: Session, store_id: str) -> str | None:
    """Of the hashes of the store's files as they are now, in order; None where none is left."""
    documents, files = others.documents, others.files
    ids = sa.select(documents.c.file_id).where(documents.c.vector_store_id == store_id)
    hashes = session.scalars(sa.select(files.c.sha256).where(files.c.id.in_(ids)).order_by(files.c.sha256)).all()
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest() if hashes else None


def scores(session: Session, weights: Weights) -> list[Score]:
    """Evaluations of what answers with these weights, and of what answered without in the same experiments.

    Test splits first; at most the newest 40.
    """
    evaluations, variants = others.evaluations, others.variants
    joined = sa.outerjoin(evaluations, variants, variants.c.id == evaluations.c.variant_id)
    done = evaluations.c.summary.is_not(None)
    own = sa.or_(variants.c.adapter_id == weights.id, evaluations.c.model == weights.model_id)
    same = sa.select(evaluations.c.experiment_id).select_from(joined).where(done, own).scalar_subquery()
    beside = sa.and_(
        evaluations.c.experiment_id.in_(same), evaluations.c.purpose == "test", variants.c.adapter_id.is_(None)
    )
    columns = (
        *(evaluations.c.model, evaluations.c.dataset_id, evaluations.c.split, evaluations.c.metric),
        *(evaluations.c.experiment_id, evaluations.c.summary, own.label("own")),
    )
    query = sa.select(*columns).select_from(joined).where(done, sa.or_(own, beside))
    query = query.order_by(evaluations.c.split, evaluations.c.created_at.desc(), evaluations.c.id).limit(40)
    return [
        Score(
            model=row.model,
            with_weights=bool(row.own),
            data=f"{row.dataset_id} ({row.split})",
            experiment=row.experiment_id,
            metric=row.metric,
            examples=row.summary["examples"],
            mean=row.summary["metrics"].get(row.metric),
        )
        for row in session.execute(query)
    ]


def _by(session: Session, **wanted: str) -> Weights | None:
    adapter = session.scalars(sa.select(AdapterRow).filter_by(**wanted).where(are_there(AdapterRow.id))).one_or_none()
    if adapter is not None:
        job = session.get(TrainingJob, adapter.job_id)
        return _weights(adapter, job, adapter.recipe, None)
    checkpoint = session.scalars(
        sa.select(CheckpointRow).filter_by(**wanted).where(are_there(CheckpointRow.id))
    ).one_or_none()
    if checkpoint is None:
        return None
    job = session.get(TrainingJob, checkpoint.job_id)
    return _weights(checkpoint, job, job.recipe if job else {}, checkpoint.step)


def _weights(
    row: AdapterRow | CheckpointRow, job: TrainingJob | None, recipe: dict[str, Any], step: int | None
) -> Weights:
    return Weights(row.id, row.model_id, row.base_model, row.blob_key, recipe, row.metrics, row.created_at, job, step)

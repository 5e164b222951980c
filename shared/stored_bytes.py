"""What a project keeps, in bytes and by kind: what its quota of stored bytes is held against.

Every row tells its own bytes: equal bytes under two rows count twice, though storage keeps them once. What is ordered
counts before it is there where its size is known, or an order could be given any number of times meanwhile.
"""

import sqlalchemy as sa
from sqlalchemy.orm import Session

from shared.read_models import (
    adapter_imports,
    adapters,
    checkpoints,
    files,
    held_files,
    stored_completions,
    training_jobs,
    vector_store_files,
)


def stored_bytes(session: Session, project_id: str) -> dict[str, int]:
    """How much there is of each kind, the most first."""
    counted = {
        "files": _sum(files.c.bytes, files.c.project_id == project_id),
        "stored completions": _sum(stored_completions.c.bytes, stored_completions.c.project_id == project_id),
        "adapters": _sum(adapters.c.bytes, adapters.c.project_id == project_id),
        "checkpoints": _sum(checkpoints.c.bytes, checkpoints.c.project_id == project_id),
        "adapters on their way in": _imports(project_id),
        "states of unfinished training jobs": _states(project_id),
        "deleted files that unfinished jobs read": _held(project_id),
        "vector stores": _passages(project_id),
    }
    found = session.execute(sa.select(*(query.scalar_subquery().label(kind) for kind, query in counted.items()))).one()
    return dict(sorted(((kind, int(size or 0)) for kind, size in found._mapping.items()), key=lambda one: -one[1]))


def _sum(size: sa.ColumnElement[int], *conditions: sa.ColumnElement[bool]) -> sa.Select[int]:
    return sa.select(sa.func.sum(size)).where(*conditions)


def _imports(project_id: str) -> sa.Select[int]:
    """What an import reads is about what it will keep."""
    joined = adapter_imports.join(held_files, held_files.c.owner_id == adapter_imports.c.job_id)
    arrived = sa.exists().where(adapters.c.id == adapter_imports.c.id)
    return _sum(held_files.c.bytes, adapter_imports.c.project_id == project_id, ~arrived).select_from(joined)


def _states(project_id: str) -> sa.Select[int]:
    kept = training_jobs.c.resume_blob_key.is_not(None)
    return _sum(training_jobs.c.resume_bytes, training_jobs.c.project_id == project_id, kept)


def _held(project_id: str) -> sa.Select[int]:
    """A search's trials hold what the search does: once."""
    named = sa.exists().where(files.c.project_id == project_id, files.c.blob_key == held_files.c.blob_key)
    sizes = sa.select(sa.func.max(held_files.c.bytes).label("bytes")).where(
        held_files.c.project_id == project_id, ~named
    )
    once = sizes.group_by(held_files.c.blob_key).subquery()
    return _sum(once.c.bytes)


def _passages(project_id: str) -> sa.Select[int]:
    """Until a file is indexed, its passages count as long as it is."""
    attached = vector_store_files
    joined = attached.outerjoin(files, files.c.id == attached.c.file_id)
    size = sa.case(
        (attached.c.status == "in_progress", sa.func.coalesce(files.c.bytes, 0)), else_=attached.c.usage_bytes
    )
    return _sum(size, attached.c.project_id == project_id).select_from(joined)

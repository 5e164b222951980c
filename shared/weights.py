"""Fine-tuned weights (adapters and checkpoints) as every service must see them: which are there, and who needs them.

Training owns their rows and generation answers with them. Both delete and both build on them, so both ask here.
"""

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from shared import read_models
from shared.jobs.tables import TERMINAL, Job
from shared.messages import DeleteWeights, ExportModel, OrderTraining

_UNFINISHED = Job.status.not_in(TERMINAL)


def are_there(weights_id: sa.SQLColumnExpression[str]) -> sa.ColumnElement[bool]:
    """Their deletion is not ordered: what is deleted is gone at once, though training may be too busy to do it yet."""
    order = aliased(Job)
    ordered = sa.exists().where(
        order.kind == DeleteWeights.kind, order.subject_id == weights_id, order.status.not_in({"failed", "cancelled"})
    )
    return ~ordered


def lock_weights(session: Session, weights_id: str) -> None:
    """Hold off whoever else builds on the weights or deletes them, until the transaction ends."""
    session.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext(:key))"), {"key": f"adapter:{weights_id}"})


def user_of(session: Session, weights_id: str) -> str | None:
    """What needs the weights: a variant, or an unfinished training job, search or export that reads them."""
    for what, query in _users(weights_id):
        user = session.scalar(query.limit(1))
        if user is not None:
            return f"the {what} {user}"
    return None


def _users(weights_id: str) -> list[tuple[str, sa.Select[tuple[str]]]]:
    variants, training, searches = read_models.variants, read_models.training_jobs, read_models.searches
    continuing = sa.select(training.c.id).join(Job, Job.id == training.c.id)
    # an order of which training has not made a job yet
    ordered = (Job.kind == OrderTraining.kind, Job.payload["init_adapter_id"].astext == weights_id)
    return [
        ("variant", sa.select(variants.c.model_id).where(variants.c.adapter_id == weights_id)),
        ("fine-tuning job", continuing.where(training.c.init_adapter_id == weights_id, _UNFINISHED)),
        ("fine-tuning job", sa.select(Job.id).where(*ordered, _UNFINISHED)),
        (
            "search",
            sa.select(searches.c.id).where(
                searches.c.init_adapter_id == weights_id, searches.c.status.in_(("running", "paused"))
            ),
        ),
        (
            "export",
            sa.select(Job.id).where(
                Job.kind == ExportModel.kind, Job.payload["weights_id"].astext == weights_id, _UNFINISHED
            ),
        ),
    ]

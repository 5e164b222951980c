"""A second try with less memory: the same run, its effective batch cut into smaller pieces."""

from services.training import repository
from services.training.errors import OutOfMemory
from services.training.recipe import Recipe
from services.training.tables import TrainingJob
from shared.jobs import JobContext

_PART = 4
"""There is one more try, so the step is a clear one: a quarter of the tokens needs a quarter of the activations' memory
and a sixteenth of the attention's. Halves would often fail again."""
_FEWEST = 16


def lower_micro_batch(context: JobContext, job: TrainingJob, error: OutOfMemory) -> TrainingJob | None:
    """The job with a smaller micro-batch written down, which whoever resumes it keeps; None after the one retry."""
    recipe = Recipe.model_validate(job.recipe)
    before = recipe.micro_batch_tokens
    after = max(_FEWEST, before // _PART)
    if job.micro_batch_tokens is not None or after == before:
        return None
    # noise is drawn pack by pack, so that other packs draw other noise
    noisy = recipe.dropout or recipe.neftune_alpha
    same = "up to rounding and to which noise is drawn" if noisy else "up to rounding"
    with context.transaction() as session:
        row, _ = repository.get_job(session, job.id)
        row.micro_batch_tokens = after
        repository.add_event(
            session,
            row.project_id,
            row.id,
            f"Memory ran out; trying once more with micro_batch_tokens {after} instead of {before}, from the last "
            f"checkpoint. The effective batch, and with it the result, stays the same {same}",
            level="warn",
            data={"code": error.code, "micro_batch_tokens": after, "before": before},
        )
        session.flush()
        session.refresh(row)
        session.expunge(row)
        return row

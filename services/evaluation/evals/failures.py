"""Which failed requests cost a row its answer or its grade, and which end the run's work."""

from services.evaluation.errors import AnswersUnavailable, EvalModelNotFound
from shared.errors import UpliftError


def stopping(failed: UpliftError, model: str) -> UpliftError | None:
    """The error that must end the work, or None where only this request is lost.

    A model that is not here fails every row alike; what may pass is worth another attempt of the job.
    """
    if failed.may_pass:
        return AnswersUnavailable(f"{model} did not answer: {failed.message}")
    if failed.status == 404:
        return EvalModelNotFound(f"{model} cannot be asked: {failed.message}", param="model")
    return None

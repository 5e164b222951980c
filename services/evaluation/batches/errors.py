"""What is refused about batches, and why asking their lines stops."""

from shared.errors import Conflict, InvalidInput, NotFound, Unavailable


class BatchNotFound(NotFound):
    code = "batch_not_found"


class InvalidBatch(InvalidInput):
    code = "invalid_batch"


class BatchNotCancellable(Conflict):
    """A 400: OpenAI's client would repeat a 409 at once, in vain."""

    status = 400
    code = "batch_not_cancellable"


class AnsweringStalled(Unavailable):
    """The workers that answer are away; the lines that were not answered are asked again later."""

    code = "answering_stalled"


class WindowOver(Exception):
    """The batch's completion window ended before its lines did."""

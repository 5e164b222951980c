"""What is refused about stored completions, and what happens to an answer that cannot be stored."""

from shared.errors import NotFound, Unavailable


class CompletionNotFound(NotFound):
    code = "completion_not_found"


class MessageNotFound(NotFound):
    code = "message_not_found"


class NotStored(Unavailable):
    """The answer was made and the database did not take it: the caller asked for both and gets neither."""

    code = "not_stored"

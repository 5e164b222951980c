"""What the doctor refuses.

Conflict, answered as 400: NothingToRemedy
"""

from shared.errors import Conflict


class NothingToRemedy(Conflict):
    """A 400, not a 409, which OpenAI's client would retry."""

    status = 400
    code = "nothing_to_remedy"

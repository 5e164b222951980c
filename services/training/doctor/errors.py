"""What the doctor refuses.

Conflict, answered as 400: NothingToRemedy, HyperparametersNotChosen
"""

from shared.errors import Conflict


class NothingToRemedy(Conflict):
    """A 400, not a 409, which OpenAI's client would retry."""

    status = 400
    code = "nothing_to_remedy"


class HyperparametersNotChosen(Conflict):
    """What a job left to `auto` is chosen once it has read its data; before that nothing can be trained alike."""

    status = 400
    code = "hyperparameters_not_chosen"

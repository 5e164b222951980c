"""What generation refuses."""

from shared.errors import Conflict, InvalidInput, NotFound, Unavailable


class ModelNotFound(NotFound):
    code = "model_not_found"


class PromptNotFound(NotFound):
    code = "prompt_not_found"


class VariantNotFound(NotFound):
    code = "variant_not_found"


class ReleaseNotFound(NotFound):
    code = "release_not_found"


class AliasTaken(Conflict):
    """A release may not hide a model of the same id."""

    status = 400
    code = "alias_taken"


class NothingToRollBack(Conflict):
    status = 400
    code = "nothing_to_roll_back"


class UnsupportedParameter(InvalidInput):
    """An option of the OpenAI API that we do not honour yet: refused by name, never ignored."""

    code = "unsupported_parameter"


class PromptTooLong(InvalidInput):
    code = "context_length_exceeded"


class UnsupportedAdapter(InvalidInput):
    """An adapter of a form that the engine cannot serve; the message names the form."""

    code = "unsupported_adapter"


class EngineStopped(Unavailable):
    """The engine's thread ended; the worker restarts."""

    code = "engine_stopped"

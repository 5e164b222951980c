"""What generation refuses."""

from shared.errors import Conflict, InvalidInput, NotFound, Unavailable, UpliftError


class ModelNotFound(NotFound):
    code = "model_not_found"


class PromptNotFound(NotFound):
    code = "prompt_not_found"


class VariantNotFound(NotFound):
    code = "variant_not_found"


class VectorStoreNotFound(NotFound):
    code = "vector_store_not_found"


class ReleaseNotFound(NotFound):
    code = "release_not_found"


class AliasTaken(Conflict):
    """A release may not hide a model of the same id."""

    status = 400
    code = "alias_taken"


class NothingToRollBack(Conflict):
    status = 400
    code = "nothing_to_roll_back"


class VariantInUse(Conflict):
    """A release points to the variant, or could be rolled back to it."""

    status = 400
    code = "variant_in_use"


class AdapterInUse(Conflict):
    """A variant answers with the adapter."""

    status = 400
    code = "model_in_use"


class PassagesUnread(InvalidInput):
    """A variant that retrieves passages and never shows them to the model."""

    code = "passages_unread"


class UnsupportedParameter(InvalidInput):
    """An option of the OpenAI API that we do not honour: refused by name, never ignored."""

    code = "unsupported_parameter"


class MessagesRefused(InvalidInput):
    """The model's chat template has no place for these messages."""

    code = "messages_refused"


class PromptTooLong(InvalidInput):
    """Messages, or messages and the answer asked for, beyond the model's window or our limits."""

    code = "context_length_exceeded"


class SchemaRefused(InvalidInput):
    """A JSON Schema that cannot become a grammar; the message says why."""

    code = "invalid_json_schema"


class TokenUnknown(InvalidInput):
    """A token id that the model does not have."""

    code = "unknown_token"


class UnsupportedAdapter(InvalidInput):
    """An adapter of a form that the engine cannot serve; the message names the form."""

    code = "unsupported_adapter"


class GenerationFailed(UpliftError):
    """The model could not compute this request's next token; others go on."""

    status = 500
    code = "generation_failed"


class EngineStopped(Unavailable):
    """The engine's thread ended; the worker restarts."""

    code = "engine_stopped"

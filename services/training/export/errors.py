"""Why something cannot be exported, each with its HTTP status and a stable code.

UpliftError
├── InvalidInput 400: NothingToExport, FormatNotPossible
└── NotFound 404: ModelNotFound
"""

from shared.errors import InvalidInput, NotFound


class ModelNotFound(NotFound):
    code = "model_not_found"


class NothingToExport(InvalidInput):
    """The model has no weights of its own: a base model, or a prompt around one."""

    code = "nothing_to_export"


class FormatNotPossible(InvalidInput):
    """These weights cannot be written in the wanted format or type."""

    code = "format_not_possible"

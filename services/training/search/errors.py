"""What can go wrong around a search, each with its HTTP status and a stable code.

UpliftError
├── InvalidInput 400: InvalidSpace, NoValidationData
├── NotFound 404: SearchNotFound
└── Conflict, answered as 400: SearchNotSteerable
"""

from shared.errors import Conflict, InvalidInput, NotFound


class InvalidSpace(InvalidInput):
    """The space asks for what no recipe can hold, or for what a search must not change."""

    code = "invalid_space"


class NoValidationData(InvalidInput):
    """A search chooses by validation loss, so there must be validation examples."""

    code = "no_validation_data"


class SearchNotFound(NotFound):
    code = "search_not_found"


class SearchNotSteerable(Conflict):
    """It has ended, is paused already, or was not paused. A 400: asking again cannot help."""

    status = 400
    code = "search_not_steerable"

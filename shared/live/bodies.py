"""Reading the body of a live request: typed, and refused as the HTTP edge would refuse it."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from shared.errors import InvalidInput

Body = TypeVar("Body", bound=BaseModel)


def read_body(shape: type[Body], body: Any) -> Body:
    """The body, typed; raises InvalidInput that names the field."""
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{where or 'body'}: {first['msg']}", param=where or None) from error

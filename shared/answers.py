"""What answers look like, for the API's description.

No route checks its own answer, which would cost every request: the contract suite and the fuzzer hold the answers that
they get against the description. So a field that is not named here, or not answered, is a failing test.
"""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class Answer(BaseModel):
    """An object that the API answers; a field with a default may be absent, every other is always there."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Without defaults: what is absent has no value."""
        shown = handler(core)
        for field in handler.resolve_ref_schema(shown).get("properties", {}).values():
            field.pop("default", None)
        return shown


class Alive(Answer):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok"}]})

    status: Literal["ok"]


class Ready(Answer):
    """The process can serve."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ready"}]})

    status: Literal["ready"]


T = TypeVar("T", bound=Answer)


class Page(Answer, Generic[T]):
    """A page of a list; the next one is `?after=<last_id>`."""

    object: Literal["list"]
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


def answering(answer: type[Answer]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers this."""
    told = (answer.__doc__ or Page.__doc__ or "").strip()
    return {200: {"model": answer, "description": told.partition("\n")[0]}}

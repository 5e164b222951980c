"""What every JSON body over HTTP is made of: unknown fields and values of another type are refused, never bent."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Body(BaseModel):
    """A body or a part of one. JSON has one kind of number, so 3.0 is a whole number; "3" and true are none."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, given: Any) -> Any:
        return {name: _whole(value) for name, value in given.items()} if isinstance(given, dict) else given


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [int(one) if isinstance(one, float) and one.is_integer() else one for one in value]
    return value

"""What the grader routes of fine-tuning take: one grader, or several and a formula over their scores."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from services.evaluation.evals.schemas import (
    WITHOUT_SANDBOX,
    Criterion,
    LabelModel,
    Name,
    ScoreModel,
    Strict,
    StringCheck,
    TextSimilarity,
    refuse_grader,
)
from services.evaluation.rewards import formula

MOST_GRADERS = 20
_LISTED, _NAMED, _ALONE = "listed graders", "named graders", "one grader"
"""With blanks, so that no field of a body is called like it: see `shared.field_names`."""


class Similarity(TextSimilarity):
    """How alike two texts are, 0..1. A reward is the score itself; a threshold is taken, as evals send one."""

    pass_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0


Single = Annotated[StringCheck | Similarity | ScoreModel | LabelModel, Field(discriminator="type")]


def _form(found: Any) -> str:
    if isinstance(found, list):
        return _LISTED
    alone = isinstance(found, Strict) or (isinstance(found, Mapping) and isinstance(found.get("type"), str))
    return _ALONE if alone else _NAMED


def _named_apart(found: list[Criterion]) -> list[Criterion]:
    names = [one.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two graders are called {twice!r}: the formula could not tell them apart")
    return found


Several = Annotated[
    Annotated[dict[Name, Single], Field(min_length=1, max_length=MOST_GRADERS), Tag(_NAMED)]
    | Annotated[list[Single], Field(min_length=1, max_length=MOST_GRADERS), AfterValidator(_named_apart), Tag(_LISTED)]
    | Annotated[Single, Tag(_ALONE)],
    Discriminator(_form),
]


class Multi(Strict):
    """Several graders and what is calculated from their scores."""

    type: Literal["multi"]
    name: Name
    graders: Several = Field(description="By the names that the formula knows them by; or a list of graders, or one.")
    calculate_output: str = Field(
        min_length=1,
        max_length=formula.MOST_CHARACTERS,
        description="Arithmetic over the graders' names: numbers, + - * / ^, brackets, "
        f"{', '.join(formula.FUNCTIONS)}.",
    )


Grader = Annotated[StringCheck | Similarity | ScoreModel | LabelModel | Multi, Field(discriminator="type")]


@dataclass(frozen=True)
class Part:
    """One grader by the name of its score; `where` is its field in the request."""

    name: str
    where: str
    criterion: Criterion


def parts(grader: Grader) -> list[Part]:
    """The graders that a grader consists of: itself, or those of a `multi`."""
    if not isinstance(grader, Multi):
        return [Part(grader.name, "grader", grader)]
    graders, where = grader.graders, "grader.graders"
    if isinstance(graders, dict):
        return [Part(name, f"{where}.{name}", one) for name, one in graders.items()]
    if isinstance(graders, list):
        return [Part(one.name, f"{where}.{number}", one) for number, one in enumerate(graders)]
    return [Part(graders.name, where, graders)]


def _raw_parts(found: Any) -> Iterator[tuple[str, Any]]:
    """Every grader of a body that nobody has checked yet, with its field."""
    yield "grader", found
    graders, where = found.get("graders") if isinstance(found, Mapping) else None, "grader.graders"
    if isinstance(graders, list):
        yield from ((f"{where}.{number}", one) for number, one in enumerate(graders))
    elif isinstance(graders, Mapping):
        yield from (
            [(where, graders)]
            if _form(graders) == _ALONE
            else ((f"{where}.{name}", one) for name, one in graders.items())
        )


def _supported(found: Any) -> Any:
    for where, one in _raw_parts(found):
        refuse_grader(one, where, WITHOUT_SANDBOX)
    return found


Supported = Annotated[Grader, BeforeValidator(_supported)]


class RunGrader(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "grader": {
                        "type": "string_check",
                        "name": "right label",
                        "input": "{{sample.output_text}}",
                        "operation": "ilike",
                        "reference": "{{item.label}}",
                    },
                    "model_sample": "It is a hardware fault.",
                    "item": {"ticket": "My screen is black.", "label": "Hardware"},
                }
            ]
        }
    )

    grader: Supported
    model_sample: str = Field(
        description="The answer that is graded: `{{sample.output_text}}`, and `{{sample.output_json}}` if it is JSON."
    )
    item: dict[str, Any] = Field({}, description="What `{{item}}` stands for: a row of the training file.")


class ValidateGrader(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "grader": {
                        "type": "multi",
                        "name": "right and close",
                        "graders": {
                            "right": {
                                "type": "string_check",
                                "name": "right",
                                "input": "{{sample.output_text}}",
                                "operation": "ilike",
                                "reference": "{{item.label}}",
                            },
                            "close": {
                                "type": "text_similarity",
                                "name": "close",
                                "input": "{{sample.output_text}}",
                                "reference": "{{item.label}}",
                                "evaluation_metric": "fuzzy_match",
                            },
                        },
                        "calculate_output": "0.8 * right + 0.2 * close",
                    }
                }
            ]
        }
    )

    grader: Supported

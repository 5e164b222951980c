"""What the Evals routes take; what OpenAI has and we do not is refused by name."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field, model_validator

from services.evaluation.errors import UnsupportedInEvals
from shared.body import Body

Metadata = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=64)],
        Annotated[str, Field(max_length=512)],
    ],
    Field(max_length=16, description="Up to 16 pairs: keys of at most 64 characters, values of at most 512."),
]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Role = Literal["user", "assistant", "system", "developer"]
TextMetric = Literal[
    "fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
]
OwnMetric = Literal["exact_match", "token_f1", "chrf"]
"""What our evaluations measure beyond OpenAI's metrics."""


_TokenLimit = Annotated[int, Field(ge=1)] | None
RunTokenLimit = Annotated[
    _TokenLimit, Field(validation_alias=AliasChoices("max_completion_tokens", "max_completions_tokens"))
]
GraderTokenLimit = Annotated[
    _TokenLimit, Field(validation_alias=AliasChoices("max_completions_tokens", "max_completion_tokens"))
]
"""OpenAI spells it one way for runs and the other for graders; we take both for both."""


class Strict(Body):
    model_config = ConfigDict(protected_namespaces=())


class GraderTextPart(Strict):
    type: Literal["input_text", "output_text", "text"]
    text: str


class InputMessage(Strict):
    """A chat message whose text may hold variables."""

    role: Role
    content: str | GraderTextPart | list[str | GraderTextPart]
    type: Literal["message"] = "message"

    @property
    def text(self) -> str:
        parts = self.content if isinstance(self.content, list) else [self.content]
        return "".join(part if isinstance(part, str) else part.text for part in parts)


def refuse_media(found: Any, where: str) -> None:
    """Raise UnsupportedInEvals for the first message of this raw list that holds an image or a sound."""
    for index, message in enumerate(found if isinstance(found, list) else []):
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else [content]:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind in ("input_image", "input_audio"):
                param = f"{where}.{index}.content"
                raise UnsupportedInEvals(f"{param}: {kind} is not supported; send text.", param=param)


class StringCheck(Strict):
    """Compares two texts: `eq` and `ne` as they are, `like` whether the input contains the reference, `ilike` the
    same whatever the case."""

    type: Literal["string_check"]
    name: Name
    input: str
    reference: str
    operation: Literal["eq", "ne", "like", "ilike"]

    def templates(self) -> Iterator[tuple[str, str]]:
        """Every template with its field's name."""
        yield from (("input", self.input), ("reference", self.reference))


class TextSimilarity(Strict):
    """How alike two texts are, 0..1; passes from `pass_threshold` on."""

    type: Literal["text_similarity"]
    name: Name
    input: str
    reference: str
    evaluation_metric: Annotated[
        Literal[TextMetric, OwnMetric, "cosine"],
        Field(description="OpenAI's metrics, and three of ours: `exact_match`, `token_f1` and `chrf`."),
    ]
    pass_threshold: Annotated[float, Field(ge=0, le=1)]

    def templates(self) -> Iterator[tuple[str, str]]:
        """Every template with its field's name."""
        yield from (("input", self.input), ("reference", self.reference))


class JudgeSampling(Strict):
    """How a grading model decodes; greedily unless told otherwise, so that a verdict can be repeated."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_completions_tokens: GraderTokenLimit = None
    """OpenAI's own spelling."""
    reasoning_effort: Literal["none"] | None = None


class ScoreModel(Strict):
    """A model says a number within `range`; passes from `pass_threshold` on (the middle of the range if not given)."""

    type: Literal["score_model"]
    name: Name
    model: Name
    input: Annotated[list[InputMessage], Field(min_length=1)]
    range: list[float] = Field(default_factory=lambda: [0.0, 1.0], min_length=2, max_length=2)
    pass_threshold: float | None = None
    sampling_params: JudgeSampling | None = None

    @model_validator(mode="after")
    def _threshold_in_range(self) -> "ScoreModel":
        low, high = self.range
        if not low < high:
            raise ValueError("range: the first number must be below the second")
        if self.pass_threshold is None:
            self.pass_threshold = (low + high) / 2
        if not low <= self.pass_threshold <= high:
            raise ValueError(f"pass_threshold must lie within the range, {low} to {high}")
        return self

    def templates(self) -> Iterator[tuple[str, str]]:
        """Every template with its field's name."""
        yield from ((f"input.{index}.content", message.text) for index, message in enumerate(self.input))


class LabelModel(Strict):
    """A model chooses one of `labels`; passes if it is one of `passing_labels`."""

    type: Literal["label_model"]
    name: Name
    model: Name
    input: Annotated[list[InputMessage], Field(min_length=1)]
    labels: Annotated[list[Name], Field(min_length=1, max_length=100)]
    passing_labels: Annotated[list[Name], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _labels_known(self) -> "LabelModel":
        unknown = [label for label in self.passing_labels if label not in self.labels]
        if unknown:
            raise ValueError(f"passing_labels: {unknown[0]!r} is not one of the labels")
        return self

    def templates(self) -> Iterator[tuple[str, str]]:
        """Every template with its field's name."""
        yield from ((f"input.{index}.content", message.text) for index, message in enumerate(self.input))


Criterion = Annotated[StringCheck | TextSimilarity | ScoreModel | LabelModel, Field(discriminator="type")]
WITHOUT_SANDBOX = {
    "python": "python graders run a stranger's code, which needs a sandbox that an operator of the server has turned "
    "on. This server has none. Use string_check, text_similarity, score_model or label_model."
}
_REFUSED_GRADERS = WITHOUT_SANDBOX | {
    "multi": "multi graders are for fine-tuning, not for evals; give their graders as criteria of their own.",
}
"""Type of grader → why it is refused."""


def refuse_grader(found: Any, where: str, refused: Mapping[str, str]) -> None:
    """Raise UnsupportedInEvals for a raw grader of a type that is refused, or one that would show a model media."""
    if not isinstance(found, Mapping):
        return
    kind = found.get("type")
    if isinstance(kind, str) and kind in refused:
        raise UnsupportedInEvals(f"{where}.type: {refused[kind]}", param=f"{where}.type")
    refuse_media(found.get("input"), f"{where}.input")


def _supported_graders(found: Any) -> Any:
    for index, grader in enumerate(found if isinstance(found, list) else []):
        refuse_grader(grader, f"testing_criteria.{index}", _REFUSED_GRADERS)
    return found


class CustomDataSource(Strict):
    """Rows of the client's own, described by a JSON Schema."""

    type: Literal["custom"]
    item_schema: dict[str, Any]
    include_sample_schema: bool = False
    """Whether answers are expected too: criteria may then use `{{sample.output_text}}`."""


def _supported_config(found: Any) -> Any:
    kind = found.get("type") if isinstance(found, Mapping) else None
    if kind in ("logs", "stored_completions"):
        raise UnsupportedInEvals(
            f'data_source_config.type = "{kind}" is not supported: evals do not read stored completions. '
            'Use "custom" and bring the rows.',
            param="data_source_config.type",
        )
    return found


class CreateEval(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "support tickets",
                    "data_source_config": {
                        "type": "custom",
                        "item_schema": {
                            "type": "object",
                            "properties": {"ticket": {"type": "string"}, "label": {"type": "string"}},
                            "required": ["ticket", "label"],
                        },
                        "include_sample_schema": True,
                    },
                    "testing_criteria": [
                        {
                            "type": "string_check",
                            "name": "right label",
                            "input": "{{sample.output_text}}",
                            "operation": "ilike",
                            "reference": "{{item.label}}",
                        }
                    ],
                }
            ]
        }
    )

    data_source_config: Annotated[CustomDataSource, BeforeValidator(_supported_config)]
    testing_criteria: Annotated[
        list[Criterion], Field(min_length=1, max_length=50), BeforeValidator(_supported_graders)
    ]
    name: Annotated[str, Field(max_length=200)] = ""
    metadata: Metadata | None = None


class UpdateEval(Strict):
    """Only what is given changes; an eval's rows and criteria never do."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "support tickets, second round"}]})

    name: Annotated[str, Field(max_length=200)] = ""
    metadata: Metadata | None = None

"""What a run is ordered with: where its rows come from, which model answers them, and how."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from services.evaluation.errors import UnsupportedInEvals
from services.evaluation.evals.schemas import InputMessage, Metadata, Name, RunTokenLimit, Strict, refuse_media


class Row(Strict):
    item: dict[str, Any]
    sample: dict[str, Any] | None = None
    """An answer that came with the row, as templates see it: `output_text` above all."""


class FileContent(Strict):
    type: Literal["file_content"]
    content: Annotated[list[Row], Field(min_length=1)]


class FileId(Strict):
    type: Literal["file_id"]
    id: Name


Source = Annotated[FileContent | FileId, Field(discriminator="type")]


class Template(Strict):
    type: Literal["template"]
    template: Annotated[list[InputMessage], Field(min_length=1)]

    def templates(self) -> Iterator[tuple[str, str]]:
        """Every template with its field's name."""
        yield from ((f"template.{index}.content", message.text) for index, message in enumerate(self.template))


class ItemReference(Strict):
    type: Literal["item_reference"]
    item_reference: str
    """A path to a list of chat messages in the row, such as `item.messages`."""


class SampledJsonSchema(Strict):
    name: Name
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextFormat(Strict):
    type: Literal["text"]


class JsonObjectFormat(Strict):
    type: Literal["json_object"]


class SampledJsonSchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: SampledJsonSchema


class FlatJsonSchemaFormat(SampledJsonSchema):
    """The same in the shape of the Responses API."""

    type: Literal["json_schema"]


class Sampling(Strict):
    """How the model decodes; what is not given is the model's own."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_completion_tokens: RunTokenLimit = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    reasoning_effort: Literal["none"] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None

    def schema_wanted(self) -> dict[str, Any] | None:
        """The JSON Schema that answers must satisfy, if any."""
        return None


class CompletionsSampling(Sampling):
    response_format: (
        Annotated[TextFormat | JsonObjectFormat | SampledJsonSchemaFormat, Field(discriminator="type")] | None
    ) = None

    def schema_wanted(self) -> dict[str, Any] | None:
        """The JSON Schema that answers must satisfy, if any."""
        if isinstance(self.response_format, SampledJsonSchemaFormat):
            return self.response_format.json_schema.schema_
        return {"type": "object"} if isinstance(self.response_format, JsonObjectFormat) else None


class ResponseText(Strict):
    format: Annotated[TextFormat | JsonObjectFormat | FlatJsonSchemaFormat, Field(discriminator="type")] | None = None


class ResponsesSampling(Sampling):
    text: ResponseText | None = None

    def schema_wanted(self) -> dict[str, Any] | None:
        """The JSON Schema that answers must satisfy, if any."""
        wanted = self.text.format if self.text else None
        if isinstance(wanted, FlatJsonSchemaFormat):
            return wanted.schema_
        return {"type": "object"} if isinstance(wanted, JsonObjectFormat) else None


class Jsonl(Strict):
    """Rows that bring what is graded with them: no model is asked for answers."""

    type: Literal["jsonl"]
    source: Source


class _Asked(Strict):
    source: Source
    model: Name
    """Any model of this server that chats: a base model, an adapter, a variant, a release."""
    input_messages: Annotated[Template | ItemReference, Field(discriminator="type")]


class Completions(_Asked):
    type: Literal["completions"]
    sampling_params: CompletionsSampling = CompletionsSampling()


class Responses(_Asked):
    """The same as completions, with options spelt as in the Responses API."""

    type: Literal["responses"]
    sampling_params: ResponsesSampling = ResponsesSampling()


DataSource = Annotated[Jsonl | Completions | Responses, Field(discriminator="type")]


def _supported_source(found: Any) -> Any:
    if not isinstance(found, Mapping):
        return found
    source = found.get("source")
    kind = source.get("type") if isinstance(source, Mapping) else None
    if kind in ("stored_completions", "responses"):
        raise UnsupportedInEvals(
            f'data_source.source.type = "{kind}" is not supported: evals do not read what models were asked. '
            "Bring the rows as file_id or file_content.",
            param="data_source.source.type",
        )
    messages = found.get("input_messages")
    if isinstance(messages, Mapping):
        refuse_media(messages.get("template"), "data_source.input_messages.template")
    return found


class CreateRun(Strict):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "the base model",
                    "data_source": {
                        "type": "completions",
                        "model": "smollm2-135m-instruct",
                        "source": {
                            "type": "file_content",
                            "content": [{"item": {"ticket": "My screen is black.", "label": "Hardware"}}],
                        },
                        "input_messages": {
                            "type": "template",
                            "template": [{"role": "user", "content": "Hardware or Software? {{item.ticket}}"}],
                        },
                        "sampling_params": {"temperature": 0, "max_completion_tokens": 8},
                    },
                }
            ]
        }
    )

    data_source: Annotated[DataSource, BeforeValidator(_supported_source)]
    name: Annotated[str, Field(max_length=200)] = ""
    metadata: Metadata | None = None

"""The real base model behind the door, the queue and the worker, asked by the unmodified client's own helpers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from shared.settings import Settings
from tests.factories.generation import generation_client, generation_worker
from tests.fakes import processes

pytestmark = [pytest.mark.stack, pytest.mark.models]
FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
PARIS: list[Any] = [{"role": "user", "content": "Describe the city of Paris as JSON."}]


class City(BaseModel):
    """What the client turns into a JSON Schema."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=12)
    continent: Literal["Europe", "Asia"]
    capital: bool


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, base_model_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("generation-home")
    (folder / "models").mkdir()
    (folder / "models" / "real").symlink_to(base_model_dir)
    return folder


@pytest.fixture(scope="module")
def worker(
    stack_environment: dict[str, str], home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[processes.Process]:
    with generation_worker(stack_environment, home, tmp_path_factory.mktemp("worker")) as started:
        yield started


@pytest.fixture
def client(settings: Settings, home: Path, project_id: str, worker: processes.Process) -> Iterator[openai.OpenAI]:
    with generation_client(settings, home, project_id) as connected:
        yield connected


def test_parses_the_answer_into_the_callers_own_class(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="real", messages=PARIS, response_format=City, temperature=0, max_completion_tokens=40
    )
    city = answer.choices[0].message.parsed
    assert city is not None
    assert city.continent in {"Europe", "Asia"}
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 30, "whitespace between tokens of JSON would cost more"


def test_streams_an_answer_that_the_helper_parses(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="real", messages=PARIS, response_format=City, temperature=0, max_completion_tokens=40
    ) as stream:
        partly = [event.parsed for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion().choices[0].message.parsed
    whole = client.chat.completions.parse(
        model="real", messages=PARIS, response_format=City, temperature=0, max_completion_tokens=40
    )
    assert final == whole.choices[0].message.parsed
    assert len(partly) > 3


def test_tells_the_client_that_an_answer_was_cut_off(client: openai.OpenAI) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="real", messages=PARIS, response_format=City, max_completion_tokens=4)


def test_writes_some_json_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="real", messages=PARIS, response_format={"type": "json_object"}, temperature=0, max_tokens=30
    )
    assert (answer.choices[0].message.content or "").startswith("{")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("options", "param", "says"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nothing"}}}},
            "response_format.json_schema.schema",
            "Invalid type: nothing",
        ),
        ({"logit_bias": {"999999": 1}}, "logit_bias", "no token 999999"),
        ({"max_tokens": 8190}, "max_tokens", "window is 8192"),
        ({"max_completion_tokens": 8190}, "max_completion_tokens", "window is 8192"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, "messages", "window is 8192"),
    ],
)
def test_refuses_with_a_status_what_only_the_model_can_tell(
    client: openai.OpenAI, options: dict[str, Any], param: str, says: str, stream: bool
) -> None:
    asked: Any = {"model": "real", "messages": FRANCE, "stream": stream} | options
    with pytest.raises(openai.BadRequestError, match=says) as caught:
        client.chat.completions.create(**asked)
    assert caught.value.param == param


def test_answers_choices_with_their_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="real", messages=FRANCE, n=3, seed=1, temperature=1.2, max_tokens=12, logprobs=True, top_logprobs=2
    )
    assert len({choice.message.content for choice in answer.choices}) > 1
    for choice in answer.choices:
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        spelled = b"".join(bytes(token.bytes or []) for token in tokens)
        assert spelled.decode(errors="ignore").startswith(choice.message.content or "")
        assert all(token.logprob <= token.top_logprobs[0].logprob <= 0 for token in tokens)
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 36
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0

"""The client tries again what may pass, and nothing is made twice by it; what cannot pass is raised at once."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.contract.client.conftest import CHAT
from tests.contract.client.unsteady import RETRY_AFTER, Unsteady, unsteady_way

covers = pytest.mark.covers
REFUSED, LOST = ["429", "503"], ["lost request", "lost answer"]


@pytest.fixture
def way(told: dict[str, str]) -> Iterator[Unsteady]:
    with unsteady_way(told["CONTRACT_BASE_URL"]) as opened:
        yield opened


@pytest.fixture
def persistent(told: dict[str, str], way: Unsteady) -> Iterator[openai.OpenAI]:
    """A client that tries three times, on the unsteady way."""
    key = told["CONTRACT_API_KEY"]
    with openai.OpenAI(base_url=way.base_url, api_key=key, max_retries=2, timeout=120) as opened:
        yield opened


def named(client: openai.OpenAI, name: str) -> list[str]:
    """The ids of the stores of this name."""
    return [store.id for store in client.vector_stores.list(limit=100) if store.name == name]


@covers("vector_stores.create")
@pytest.mark.parametrize("fault", REFUSED + LOST)
def test_makes_a_store_once_whatever_became_of_the_first_try(
    client: openai.OpenAI, persistent: openai.OpenAI, way: Unsteady, fault: str
) -> None:
    name, way.faults, began = f"once {secrets.token_hex(4)}", [fault], time.monotonic()
    made = persistent.vector_stores.create(name=name)
    assert way.tries == ["0", "1"]
    assert time.monotonic() - began >= (RETRY_AFTER if fault in REFUSED else 0)
    assert named(client, name) == [made.id]


@covers("vector_stores.create")
def test_makes_a_store_once_for_the_asynchronous_client_too(
    client: openai.OpenAI, told: dict[str, str], way: Unsteady
) -> None:
    name, way.faults = f"once {secrets.token_hex(4)}", ["lost answer", "503"]

    async def create() -> str:
        key = told["CONTRACT_API_KEY"]
        async with openai.AsyncOpenAI(base_url=way.base_url, api_key=key, max_retries=2) as opened:
            return (await opened.vector_stores.create(name=name)).id

    made = asyncio.run(create())
    assert named(client, name) == [made]
    assert way.tries == ["0", "1", "2"]


@covers("files.create")
def test_keeps_an_upload_once_though_its_answer_was_lost(
    client: openai.OpenAI, persistent: openai.OpenAI, way: Unsteady
) -> None:
    name, way.faults = f"once-{secrets.token_hex(4)}.txt", ["lost answer"]
    made = persistent.files.create(file=(name, b"line\n" * 1000), purpose="user_data")
    assert way.tries == ["0", "1"]
    assert [file.id for file in client.files.list() if file.filename == name] == [made.id]


@covers("chat.completions.create", "chat.completions.list")
@pytest.mark.parametrize("fault", ["lost answer", "given up"])
def test_stores_a_completion_once_though_its_answer_was_lost(
    client: openai.OpenAI, persistent: openai.OpenAI, way: Unsteady, fault: str
) -> None:
    mark, way.faults = {"mark": secrets.token_hex(4)}, [fault]
    made = persistent.with_options(max_retries=5).chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": "Count."}], max_tokens=48, store=True, metadata=mark
    )
    assert way.tries[:2] == ["0", "1"]
    assert [kept.id for kept in client.chat.completions.list(metadata=mark)] == [made.id]


@covers("vector_stores.create")
@pytest.mark.parametrize(("status", "raised"), [(503, openai.InternalServerError), (429, openai.RateLimitError)])
def test_gives_up_after_its_tries_and_says_how_it_was_refused(
    persistent: openai.OpenAI, way: Unsteady, status: int, raised: type[openai.APIStatusError]
) -> None:
    way.faults, began = [str(status)] * 2, time.monotonic()
    with pytest.raises(raised) as refused:
        persistent.with_options(max_retries=1).vector_stores.create(name="never")
    assert way.tries == ["0", "1"]
    assert RETRY_AFTER <= time.monotonic() - began < RETRY_AFTER + 30
    assert (refused.value.status_code, refused.value.response.headers["retry-after"]) == (status, str(RETRY_AFTER))


@covers("chat.completions.create")
def test_raises_a_conflict_at_once_while_the_key_is_in_use(
    client: openai.OpenAI, persistent: openai.OpenAI, way: Unsteady
) -> None:
    asked: dict[str, Any] = {
        "model": CHAT,
        "messages": [{"role": "user", "content": "Count to a thousand."}],
        "max_tokens": 500,
        "logit_bias": {"0": -100, "2": -100},  # so that it does not end before its time
        "stream": True,
        "extra_headers": {"Idempotency-Key": f"contract-{secrets.token_hex(8)}"},
    }
    with client.chat.completions.create(**asked) as stream:
        next(iter(stream))
        with pytest.raises(openai.ConflictError) as refused:
            persistent.chat.completions.create(**asked)
    assert refused.value.code == "idempotency_key_in_use"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert way.tries == ["0"]


@covers("chat.completions.create")
def test_raises_a_conflict_at_once_for_a_stream_that_cannot_be_told_again(
    client: openai.OpenAI, persistent: openai.OpenAI, way: Unsteady
) -> None:
    asked: dict[str, Any] = {
        "model": CHAT,
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 2,
        "stream": True,
        "extra_headers": {"Idempotency-Key": f"contract-{secrets.token_hex(8)}"},
    }
    assert list(client.chat.completions.create(**asked))
    until = time.monotonic() + 20  # that it is over is written down after its last word
    while _refusal(client, asked) == "idempotency_key_in_use" and time.monotonic() < until:
        time.sleep(0.05)
    with pytest.raises(openai.ConflictError) as refused:
        persistent.chat.completions.create(**asked)
    assert refused.value.code == "idempotent_answer_not_kept"
    assert way.tries == ["0"]


def _refusal(client: openai.OpenAI, asked: dict[str, Any]) -> str | None:
    with pytest.raises(openai.ConflictError) as refused:
        client.chat.completions.create(**asked)
    return refused.value.code

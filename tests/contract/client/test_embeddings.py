"""It embeds texts in the forms that the client asks for."""

import asyncio
import math

import openai
import pytest

from tests.contract.client.conftest import EMBEDDER

covers = pytest.mark.covers


@covers("embeddings.create")
def test_embeds_one_text_and_many_in_their_order(client: openai.OpenAI) -> None:
    many = client.embeddings.create(model=EMBEDDER, input=["a red apple", "a green pear"])
    assert many.object == "list"
    assert many.model == EMBEDDER
    assert [one.index for one in many.data] == [0, 1]
    assert {one.object for one in many.data} == {"embedding"}
    assert many.usage.total_tokens == many.usage.prompt_tokens > 0
    alone = client.embeddings.create(model=EMBEDDER, input="a green pear")
    assert alone.data[0].embedding == pytest.approx(many.data[1].embedding, abs=1e-2)


@covers("embeddings.create")
def test_gives_the_same_vector_as_floats_and_as_base64(client: openai.OpenAI) -> None:
    decoded = client.embeddings.create(model=EMBEDDER, input="word").data[0].embedding  # the client asks for base64
    floats = client.embeddings.create(model=EMBEDDER, input="word", encoding_format="float").data[0].embedding
    assert decoded == pytest.approx(floats, abs=1e-6)
    raw = client.embeddings.create(model=EMBEDDER, input="word", encoding_format="base64").data[0].embedding
    assert isinstance(raw, str)


@covers("embeddings.create")
def test_shortens_vectors_to_unit_length(client: openai.OpenAI) -> None:
    short = client.embeddings.create(model=EMBEDDER, input="word", dimensions=64).data[0].embedding
    assert len(short) == 64
    assert math.hypot(*short) == pytest.approx(1, abs=1e-4)


@covers("embeddings.create")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"dimensions": 100_000}, "dimensions"),
        ({"size": 1}, "size"),
    ],
)
def test_refuses_by_name_what_it_cannot_honour(client: openai.OpenAI, body: dict, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model=EMBEDDER, input="word", extra_body=body)
    assert (refused.value.param or "").startswith(param)


@covers("embeddings.create")
def test_refuses_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="no-such-embedder", input="word")


@covers("embeddings.create")
def test_answers_the_asynchronous_client(async_client: openai.AsyncOpenAI) -> None:
    async def ask() -> int:
        async with async_client as opened:
            return len((await opened.embeddings.create(model=EMBEDDER, input="word")).data[0].embedding)

    assert asyncio.run(ask()) == 384

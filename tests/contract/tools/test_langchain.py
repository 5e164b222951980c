"""LangChain's OpenAI classes."""

import asyncio

import openai
import pytest
from conftest import CHAT, EMBEDDER
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

MESSAGES = [SystemMessage("You are brief."), HumanMessage("Name the capital of France.")]


def chat(where: dict[str, str], **options: object) -> ChatOpenAI:
    return ChatOpenAI(model=CHAT, temperature=0, max_tokens=12, **where, **options)


def embedder(where: dict[str, str]) -> OpenAIEmbeddings:
    # it would send OpenAI's own token numbers otherwise
    return OpenAIEmbeddings(model=EMBEDDER, check_embedding_ctx_length=False, **where)


def test_chats_and_counts_tokens(where: dict[str, str]) -> None:
    answer = chat(where).invoke(MESSAGES)
    assert answer.content
    assert answer.response_metadata["finish_reason"] in {"stop", "length"}
    assert answer.response_metadata["model_name"] == CHAT
    usage = answer.usage_metadata
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


def test_streams_the_same_text(where: dict[str, str]) -> None:
    model = chat(where, stream_usage=True)
    chunks = list(model.stream(MESSAGES))
    assert "".join(chunk.content for chunk in chunks) == model.invoke(MESSAGES).content
    assert any(chunk.usage_metadata for chunk in chunks)


def test_chats_asynchronously_and_in_batches(where: dict[str, str]) -> None:
    model = chat(where)
    alone = model.invoke(MESSAGES).content
    assert asyncio.run(model.ainvoke(MESSAGES)).content == alone
    assert len(model.batch([MESSAGES, MESSAGES, MESSAGES])) == 3


def test_gives_log_probabilities(where: dict[str, str]) -> None:
    answer = chat(where).bind(logprobs=True, top_logprobs=2).invoke(MESSAGES)
    tokens = answer.response_metadata["logprobs"]["content"]
    assert tokens
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 2 for token in tokens)


def similarity(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


class Verdict(BaseModel):
    """Whether something is good."""

    good: bool


def test_answers_in_the_shape_of_a_class(where: dict[str, str]) -> None:
    asker = chat(where).with_structured_output(Verdict, method="json_schema")
    assert isinstance(asker.invoke("Is the sky blue?"), Verdict)


def test_raises_the_clients_own_errors(where: dict[str, str]) -> None:
    with pytest.raises(openai.NotFoundError):
        ChatOpenAI(model="no-such-model", **where).invoke("Hello")
    with pytest.raises(openai.AuthenticationError):
        ChatOpenAI(model=CHAT, base_url=where["base_url"], api_key="sk-uplift-unknown").invoke("Hello")


def test_embeds_documents_and_questions_alike(where: dict[str, str]) -> None:
    model = embedder(where)
    first, second = model.embed_documents(["a red apple", "the stock market"])
    question = model.embed_query("a red apple")
    assert len(question) == 384
    assert question == pytest.approx(first, abs=1e-2)
    assert similarity(question, first) > similarity(question, second)
    assert asyncio.run(model.aembed_query("a red apple")) == pytest.approx(question, abs=1e-2)

"""LlamaIndex's OpenAI-like classes."""

import asyncio

import pytest
from conftest import CHAT, EMBEDDER
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

MESSAGES = [ChatMessage(role="user", content="Name the capital of France.")]


@pytest.fixture
def model(where: dict[str, str]) -> OpenAILike:
    return OpenAILike(
        model=CHAT,
        api_base=where["base_url"],
        api_key=where["api_key"],
        is_chat_model=True,
        temperature=0,
        max_tokens=12,
        context_window=2048,
    )


@pytest.fixture
def embedder(where: dict[str, str]) -> OpenAILikeEmbedding:
    return OpenAILikeEmbedding(model_name=EMBEDDER, api_base=where["base_url"], api_key=where["api_key"])


def test_chats_and_completes(model: OpenAILike) -> None:
    answer = model.chat(MESSAGES)
    assert answer.message.content
    assert answer.raw.usage.total_tokens > 0
    assert model.complete("Name the capital of France.").text


def test_streams_the_same_text(model: OpenAILike) -> None:
    assert "".join(part.delta or "" for part in model.stream_chat(MESSAGES)) == model.chat(MESSAGES).message.content


def test_chats_asynchronously(model: OpenAILike) -> None:
    assert asyncio.run(model.achat(MESSAGES)).message.content == model.chat(MESSAGES).message.content


def test_embeds_texts_in_their_order(embedder: OpenAILikeEmbedding) -> None:
    first, second = embedder.get_text_embedding_batch(["a red apple", "the stock market"])
    assert len(first) == 384
    assert embedder.get_query_embedding("a red apple") == pytest.approx(first, abs=1e-2)
    assert first != pytest.approx(second, abs=1e-2)


def test_answers_from_an_index_of_its_own(model: OpenAILike, embedder: OpenAILikeEmbedding) -> None:
    """Their retrieval over our embedder and our model."""
    documents = [Document(text="The lid of the kettle is made of copper."), Document(text="Stocks fell on Monday.")]
    index = VectorStoreIndex.from_documents(documents, embed_model=embedder)
    answer = index.as_query_engine(llm=model, similarity_top_k=1).query("What is the lid of the kettle made of?")
    assert "copper" in answer.source_nodes[0].text
    assert str(answer)

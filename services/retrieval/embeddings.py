"""OpenAI's embeddings, in and out: what may be asked, and vectors in the two encodings."""

import base64
from typing import Any

import numpy as np

from services.retrieval.schemas import MOST_INPUTS, CreateEmbedding
from shared.errors import InvalidInput
from shared.live.vectors import unpacked


def texts(found: str | list[str] | list[int] | list[list[int]]) -> list[str]:
    """What is to be embedded; raises InvalidInput for tokens, for nothing and for too much."""
    wanted = [found] if isinstance(found, str) else [text for text in found if isinstance(text, str)]
    if not isinstance(found, str) and len(wanted) != len(found):
        raise InvalidInput(
            "Send text: arrays of tokens belong to another model's vocabulary. (LangChain's OpenAIEmbeddings "
            "sends text when check_embedding_ctx_length=False.)",
            param="input",
        )
    if not wanted or len(wanted) > MOST_INPUTS:
        raise InvalidInput(f"Between 1 and {MOST_INPUTS} inputs, not {len(wanted)}.", param="input")
    for number, text in enumerate(wanted):
        if not text:
            raise InvalidInput(f"Invalid 'input[{number}]': it must not be empty.", param="input")
    return wanted


def embedding_list(asked: CreateEmbedding, answer: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's list of embeddings from the answer of a live "retrieval.embed"."""
    vectors = _shorten(unpacked(answer), asked.dimensions)
    used = answer["prompt_tokens"]
    return {
        "object": "list",
        "model": asked.model,
        "data": [
            {"object": "embedding", "index": index, "embedding": _encode(vector, asked.encoding_format)}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def _shorten(vectors: Any, dimensions: int | None) -> Any:
    """The first `dimensions` of each vector, of length 1 again. (N, D) → (N, dimensions)"""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    if dimensions > vectors.shape[1]:
        raise InvalidInput(f"This model has {vectors.shape[1]} dimensions, not {dimensions}.", param="dimensions")
    cut = vectors[:, :dimensions]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)


def _encode(vector: Any, encoding: str) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(x) for x in vector]

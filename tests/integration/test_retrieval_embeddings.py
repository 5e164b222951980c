"""Embeddings with the unmodified OpenAI client."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import sqlalchemy as sa

from services.retrieval.errors import EmbedderNotFound, NotAnEmbedder
from services.retrieval.settings import RetrievalSettings
from services.retrieval.worker import Embedders
from shared import read_models
from shared.database import Database
from shared.settings import Settings
from shared.storage import Storage
from tests.fakes.retrieval_parts import Parts

pytestmark = pytest.mark.stack
MODEL = "all-minilm-l6-v2"


@pytest.fixture
def parts(settings: Settings, database: Database, storage: Storage, project_id: str) -> Iterator[Parts]:
    made = Parts(settings, database, storage, project_id)
    yield made
    made.http.close()


def test_embeds_as_the_client_decodes_it(parts: Parts) -> None:
    sent = ["one two", "three"]
    decoded = parts.client.embeddings.create(model=MODEL, input=sent)
    floats = parts.client.embeddings.create(model=MODEL, input=sent, encoding_format="float")
    expected = parts.embedder.embed(sent)
    assert np.allclose([one.embedding for one in decoded.data], expected, atol=1e-7)
    assert np.allclose([one.embedding for one in floats.data], expected, atol=1e-7)
    assert (decoded.usage.prompt_tokens, decoded.usage.total_tokens) == (3, 3)
    raw = parts.http.post("/v1/embeddings", json={"model": MODEL, "input": "one two", "encoding_format": "base64"})
    packed = base64.b64decode(raw.json()["data"][0]["embedding"])
    assert np.allclose(np.frombuffer(packed, "<f4"), expected[0], atol=1e-7)
    short = np.asarray(parts.client.embeddings.create(model=MODEL, input="one", dimensions=8).data[0].embedding)
    assert short.shape == (8,)
    assert np.isclose(np.linalg.norm(short), 1.0)


@pytest.mark.parametrize(
    ("asked", "param", "says"),
    [
        ({"input": [1, 2, 3]}, "input", "check_embedding_ctx_length=False"),
        ({"input": [[1], [2]]}, "input", "another model's vocabulary"),
        ({"input": ""}, "input", "input\\[0\\]"),
        ({"input": ["a", ""]}, "input", "input\\[1\\]"),
        ({"input": []}, "input", "not 0"),
        ({"input": ["a"] * 2049}, "input", "not 2049"),
        ({"input": ["short", "word " * 41]}, "input", "input\\[1\\].* 41 tokens; .* at most 40"),
        ({"input": [1, "a"]}, "input", "valid string"),
        ({"input": {"a": 1}}, "input", "valid string"),
        ({"input": "a", "dimensions": 65}, "dimensions", "64 dimensions"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater"),
        ({"input": "a", "extra_body": {"nonsense": 1}}, "nonsense", "nonsense"),
    ],
)
def test_refuses_what_it_cannot_embed_and_names_it(parts: Parts, asked: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says) as refused:
        parts.client.embeddings.create(model=MODEL, **asked)
    assert str(refused.value.param).split(".")[0] == param


def test_embeds_as_many_texts_as_it_says_in_their_order(parts: Parts) -> None:
    texts = [f"text {n}" for n in range(2048)]
    found = parts.client.embeddings.create(model=MODEL, input=texts)
    assert [one.index for one in found.data] == list(range(2048))
    assert np.allclose(found.data[2047].embedding, parts.embedder.embed([texts[-1]])[0], atol=1e-7)
    assert found.usage.total_tokens == 4096


def test_sends_a_chat_model_to_the_chat_and_knows_no_stranger(parts: Parts) -> None:
    table = read_models.adapters
    row = {
        "id": f"ad_{parts.project_id}",
        "project_id": parts.project_id,
        "model_id": "ft:tuned",
        "base_model": "b",
        "blob_key": "k",
    }
    row |= {
        "job_id": f"j_{parts.project_id}",
        "dataset_id": "d",
        "recipe": {},
        "metrics": {},
        "train_seconds": 1.0,
        "trained_tokens": 1,
    }
    with parts.database.transaction(parts.project_id) as session:
        session.execute(sa.insert(table).values(row))
    with pytest.raises(openai.BadRequestError, match="'ft:tuned' is a chat model") as refused:
        parts.client.embeddings.create(model="ft:tuned", input="a")
    assert refused.value.param == "model"
    for unknown in ("nothing", "../etc"):
        with pytest.raises(openai.NotFoundError, match=unknown):
            parts.client.embeddings.create(model=unknown, input="a")


def test_tells_an_embedder_from_a_base_model_by_its_folder(tmp_path: Path) -> None:
    for name in ("base", ".hidden"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text("{}")
    embedders = Embedders(RetrievalSettings(home=tmp_path))
    with pytest.raises(NotAnEmbedder, match="'base' is a chat model"):
        embedders("base")
    for name in ("nothing", ".hidden", "../models/base"):
        with pytest.raises(EmbedderNotFound):
            embedders(name)

"""The real embedder from its local folder."""

from pathlib import Path

import numpy as np
import pytest

from services.retrieval.embedder_reach import reach
from services.retrieval.embedding.sentence_encoder import SentenceEncoder
from shared.compute import ComputeShare

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def encoder(embedder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    home = tmp_path_factory.mktemp("home")
    return SentenceEncoder(embedder_dir, lambda: ComputeShare(home, "embedding"))


def test_gives_unit_vectors_that_do_not_depend_on_the_batch(encoder: SentenceEncoder) -> None:
    texts = ["A cat sat on the mat.", "Databases need vacuuming. " * 20, "x"]
    together = encoder.embed(texts)
    assert together.shape == (3, encoder.dimensions) == (3, 384)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    alone = np.concatenate([encoder.embed([text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-5)
    assert encoder.embed([]).shape == (0, 384)


def test_puts_like_meanings_close(encoder: SentenceEncoder) -> None:
    vectors = encoder.embed(["How do I reset my password?", "I forgot my login secret.", "Bake the bread for an hour."])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_counts_tokens_and_reads_as_many_as_it_says(encoder: SentenceEncoder) -> None:
    assert encoder.count_tokens(["hello world", "", "autovacuum_naptime"])[:2] == [2, 0]
    full = "cat " * encoder.most_tokens
    assert encoder.count_tokens([full]) == [encoder.most_tokens]
    exact, longer, shorter = encoder.embed([full, full + "dog", "cat " * (encoder.most_tokens - 1) + "dog"])
    assert np.allclose(exact, longer, atol=1e-5)
    assert not np.allclose(exact, shorter, atol=1e-4)


def test_reads_as_many_as_its_folder_tells_the_door(encoder: SentenceEncoder, embedder_dir: Path) -> None:
    assert reach(embedder_dir.parent, embedder_dir.name) == encoder.most_tokens

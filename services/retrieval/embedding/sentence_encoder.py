"""A sentence-transformers model from a local folder: safetensors, no code, no network."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from services.retrieval.embedder import Vectors

_BATCH = 64


class SentenceEncoder:
    """Not thread-safe by itself: one thread runs it (see batcher.py)."""

    def __init__(self, folder: Path, threads: Callable[[], int]) -> None:
        self.name = folder.name
        self._threads = threads
        self._model = SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
        found = self._model.get_embedding_dimension()
        assert found is not None, f"{folder} does not say its dimensions"
        self.dimensions = found

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(N, dimensions) float32 unit vectors; the library batches by length."""
        torch.set_num_threads(self._threads())
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        found = self._model.encode(
            list(texts), batch_size=_BATCH, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return np.asarray(found, dtype=np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens per text as the model sees them, special tokens left out."""
        if not texts:
            return []
        encoded = self._model.tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

"""A sentence-transformers model from a local folder: safetensors, no code, no network."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from services.retrieval.embedder import Vectors
from shared.compute import ComputeShare

_BATCH = 32
_FEW = 2
"""So few texts are done in milliseconds by one thread: nobody needs to make room for them."""


class SentenceEncoder:
    """Not thread-safe by itself: one thread runs it (see batcher.py). `share` gives its part of the machine."""

    def __init__(self, folder: Path, share: Callable[[], ComputeShare]) -> None:
        self.name = folder.name
        self._share = share
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
        special = self._model.tokenizer.num_special_tokens_to_add()
        self.most_tokens: int = self._model.max_seq_length - special

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(N, dimensions) float32 unit vectors; a longer batch holds a share of the machine while it runs."""
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        if len(texts) <= _FEW:
            return self._encode(texts, threads=1)
        with self._share() as share:
            return self._encode(texts, threads=share.threads())

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens per text as the model sees them, special tokens left out."""
        if not texts:
            return []
        encoded = self._model.tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def _encode(self, texts: Sequence[str], *, threads: int) -> Vectors:
        torch.set_num_threads(threads)
        found = self._model.encode(
            list(texts), batch_size=_BATCH, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return np.asarray(found, dtype=np.float32)

"""What retrieval needs of an embedding model; the real one is in embedding/, tests may bring a small honest one."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class Embedder(Protocol):
    """Texts to unit vectors."""

    @property
    def name(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    @property
    def most_tokens(self) -> int:
        """How many tokens of a text it reads, as `count_tokens` counts; what follows has no influence."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(N, dimensions) float32, each row of length 1."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]: ...

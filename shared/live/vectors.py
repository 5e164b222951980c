"""Vectors in a live answer: as base64 of little-endian float32, a third of what decimal numbers take."""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray


def packed(vectors: NDArray[Any]) -> dict[str, Any]:
    """The part of an answer that holds the vectors. (N, D)"""
    return {
        "vectors": base64.b64encode(vectors.astype("<f4").tobytes()).decode("ascii"),
        "dimensions": vectors.shape[1],
    }


def unpacked(answer: dict[str, Any]) -> NDArray[np.float32]:
    """The vectors of an answer, read-only. (N, D)"""
    return np.frombuffer(base64.b64decode(answer["vectors"]), dtype="<f4").reshape(-1, answer["dimensions"])

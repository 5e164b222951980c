"""What retrieval refuses."""

from shared.errors import InvalidInput, NotFound


class VectorStoreNotFound(NotFound):
    code = "vector_store_not_found"


class VectorStoreFileNotFound(NotFound):
    code = "vector_store_file_not_found"


class BatchNotFound(NotFound):
    code = "vector_store_batch_not_found"


class CursorNotFound(NotFound):
    """What a list is to go on from is not in it."""

    code = "cursor_not_found"


class StoreExpired(InvalidInput):
    """Nobody used the store for as long as its owner allowed; its passages are given back."""

    code = "vector_store_expired"


class BatchEnded(InvalidInput):
    """OpenAI's client tries a 409 again, so this is a 400."""

    code = "batch_already_ended"


class FileNotFound(NotFound):
    code = "file_not_found"


class EmbedderNotFound(NotFound):
    code = "model_not_found"


class NotAnEmbedder(InvalidInput):
    """A model that is here, but answers in words, not in vectors."""

    code = "model_not_supported"

    @classmethod
    def of(cls, model: str) -> "NotAnEmbedder":
        return cls(
            f"{model!r} is a chat model: ask it at /v1/chat/completions. GET /v1/models lists the embedding models "
            "(kind: embedder).",
            param="model",
        )


class ChunksTooLong(InvalidInput):
    """Passages longer than the embedder reads: their ends could not be found."""

    code = "chunk_size_too_large"

    @classmethod
    def of(cls, asked: int, embedder: str, reads: int, *, where: str) -> "ChunksTooLong":
        param = f"{where}chunking_strategy.static.max_chunk_size_tokens"
        return cls(
            f"{param} is {asked}, but the store's embedder, {embedder}, reads at most {reads} tokens of a passage. Ask "
            "for no more than that, or leave chunking_strategy out.",
            param=param,
        )


class TextTooLong(InvalidInput):
    code = "context_length_exceeded"

"""What retrieval refuses."""

from shared.errors import InvalidInput, NotFound


class VectorStoreNotFound(NotFound):
    code = "vector_store_not_found"


class VectorStoreFileNotFound(NotFound):
    code = "vector_store_file_not_found"


class FileNotFound(NotFound):
    code = "file_not_found"


class UnsupportedFile(InvalidInput):
    """A kind of file that we do not read. Recorded on the file as `last_error`; the other files go on."""

    code = "unsupported_file"


class InvalidFile(InvalidInput):
    """A kind that we read, with bytes that are not text. Recorded on the file as `last_error`."""

    code = "invalid_file"


class InvalidFilter(InvalidInput):
    code = "invalid_filter"


class EmbedderNotFound(NotFound):
    code = "model_not_found"


class TextTooLong(InvalidInput):
    code = "context_length_exceeded"

"""What can go wrong with files and datasets, each with the place and the remedy in its message."""

from shared.errors import Conflict, InvalidInput, NotFound


class DatasetMissing(NotFound):
    code = "dataset_not_found"


class UploadRefused(InvalidInput):
    code = "invalid_upload"


class UploadMissing(NotFound):
    code = "upload_not_found"


class InvalidUpload(InvalidInput):
    """Parts that do not make up the announced file; the upload stays pending, so that they can be mended."""

    code = "invalid_upload_parts"


class UploadNotPending(Conflict):
    """A 400: OpenAI's client would repeat a 409 at once, in vain."""

    status = 400
    code = "upload_not_pending"


class UploadTooLarge(InvalidInput):
    status = 413
    code = "file_too_large"


class ImportFailed(InvalidInput):
    """The source could not be read as examples; `line` counts from 1, 0 means the file as a whole."""

    code = "invalid_examples"

    def __init__(self, problem: str, *, line: int = 0) -> None:
        super().__init__(f"line {line}: {problem}" if line else problem, param="file")
        self.line = line


class CannotSplit(InvalidInput):
    code = "cannot_split"


class InvalidSplit(InvalidInput):
    code = "invalid_split"


class DatasetNotReady(Conflict):
    """OpenAI's client retries a 409, so this is a 400: asking again at once cannot help."""

    status = 400
    code = "dataset_not_ready"


class DatasetBusy(Conflict):
    status = 400
    code = "dataset_busy"


class GoldDocumentsUnknown(InvalidInput):
    code = "gold_documents_unknown"

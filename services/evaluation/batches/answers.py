"""What the batches' routes answer, for the API's description."""

from typing import Literal

from pydantic import ConfigDict

from services.evaluation.batches.domain import Endpoint, Status
from shared.answers import Answer


class BatchProblem(Answer):
    """What is wrong with a line of the input file, or with the file where `line` is null."""

    code: str
    line: int | None
    """From 1."""
    message: str
    param: str | None


class BatchProblems(Answer):
    """The first hundred problems of a batch that failed."""

    object: Literal["list"]
    data: list[BatchProblem]


class RequestCounts(Answer):
    """The lines of the file, once it was checked, and how many of them were answered well and badly."""

    total: int
    completed: int
    failed: int


class CachedTokens(Answer):
    """None: nothing is kept between requests."""

    cached_tokens: int


class ReasoningTokens(Answer):
    """None: no model here thinks apart from its answer."""

    reasoning_tokens: int


class BatchUsage(Answer):
    """The tokens of all answers so far."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class BatchObject(Answer):
    """OpenAI's Batch. Times are unix seconds, null for what did not happen."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "batch_abc",
                    "object": "batch",
                    "endpoint": "/v1/chat/completions",
                    "model": "smollm2-135m-instruct",
                    "errors": None,
                    "input_file_id": "file-abc",
                    "completion_window": "24h",
                    "status": "completed",
                    "output_file_id": "file-def",
                    "error_file_id": None,
                    "created_at": 1767225600,
                    "expires_at": 1767312000,
                    "in_progress_at": 1767225601,
                    "finalizing_at": 1767225660,
                    "completed_at": 1767225661,
                    "failed_at": None,
                    "expired_at": None,
                    "cancelling_at": None,
                    "cancelled_at": None,
                    "request_counts": {"total": 100, "completed": 100, "failed": 0},
                    "usage": {
                        "input_tokens": 3200,
                        "input_tokens_details": {"cached_tokens": 0},
                        "output_tokens": 800,
                        "output_tokens_details": {"reasoning_tokens": 0},
                        "total_tokens": 4000,
                    },
                    "metadata": {"round": "second"},
                }
            ]
        }
    )

    id: str
    object: Literal["batch"]
    endpoint: Endpoint
    model: str | None
    """The one model that every line names; null before the file was checked, and where lines name several."""
    errors: BatchProblems | None
    input_file_id: str
    completion_window: Literal["24h"]
    status: Status
    output_file_id: str | None
    """The lines that were answered well, once the batch is over."""
    error_file_id: str | None
    """The lines that were refused or not asked."""
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None

"""The error tree: every refusal is a named class that knows its HTTP status and whether trying again can help.

UpliftError
├── InvalidInput 400      ├── Unauthorized 401   ├── Forbidden 403   ├── NotFound 404
├── Conflict 409          ├── PayloadTooLarge 413
├── TooManyRequests 429   ├── QuotaExceeded 429
├── Unavailable 503       └── DeadlineExceeded 504
"""

from typing import Any, ClassVar


class UpliftError(Exception):
    """An error that a caller is meant to read: what happened, where (`param`) and what to do."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def may_pass(self) -> bool:
        """Whether asking the same again later can help; an error of another process tells it by its status alone."""
        return self.retryable or self.status in {429, 503, 504}

    def as_record(self) -> dict[str, Any]:
        """The shape stored on failed jobs and sent over reply streams."""
        return {"code": self.code, "message": self.message, "param": self.param, "status": self.status}


class InvalidInput(UpliftError):
    status = 400
    code = "invalid_input"


class Unauthorized(UpliftError):
    status = 401
    code = "invalid_api_key"


class Forbidden(UpliftError):
    status = 403
    code = "forbidden"


class NotFound(UpliftError):
    status = 404
    code = "not_found"


class Conflict(UpliftError):
    status = 409
    code = "conflict"


class PayloadTooLarge(UpliftError):
    status = 413
    code = "payload_too_large"


class TooManyRequests(UpliftError):
    """Back-pressure: the queue is full; `retry_after` is in seconds."""

    status = 429
    code = "queue_full"
    retryable = True

    def __init__(self, message: str, *, param: str | None = None, retry_after: int = 1) -> None:
        super().__init__(message, param=param)
        self.retry_after = retry_after


class QuotaExceeded(UpliftError):
    """The project used up what it may have; asking again cannot help, so clients are told not to."""

    status = 429
    code = "insufficient_quota"


class Unavailable(UpliftError):
    status = 503
    code = "unavailable"
    retryable = True


class DeadlineExceeded(UpliftError):
    status = 504
    code = "deadline_exceeded"
    retryable = True


class RemoteError(UpliftError):
    """An UpliftError that happened in another process, rebuilt from its record with the same status and code."""

    def __init__(self, record: dict[str, Any]) -> None:
        super().__init__(str(record.get("message", "unknown error")), param=record.get("param"))
        # instance attributes shadow the class's: the remote error's own status and code must survive the trip
        self.__dict__["status"] = int(record.get("status", 500))
        self.__dict__["code"] = str(record.get("code", "internal_error"))

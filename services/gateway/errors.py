"""What the door refuses, each with its status and what to do about it."""

from shared.errors import Conflict, Forbidden, InvalidInput, NotFound, TooManyRequests


class WrongHost(Forbidden):
    code = "wrong_host"


class MissingScope(Forbidden):
    code = "missing_scope"


class ExpiryBeyondOwn(Forbidden):
    """A key that ends must not make one that outlives it."""

    code = "expiry_beyond_own"


class KeyNotFound(NotFound):
    code = "key_not_found"


class InvalidExpiry(InvalidInput):
    code = "invalid_expiry"


class RateLimited(TooManyRequests):
    code = "rate_limit_exceeded"


class IdempotencyKeyInvalid(InvalidInput):
    code = "invalid_idempotency_key"


class IdempotencyKeyInUse(Conflict):
    code = "idempotency_key_in_use"


class IdempotentAnswerNotKept(Conflict):
    """The first answer was a stream, or too long: it can neither be told again nor made again for the same key."""

    code = "idempotent_answer_not_kept"


class FirstAttemptRunning(Conflict):
    """The client tries again what still runs; it may ask once more, since there will be an answer then."""

    code = "first_attempt_running"
    retryable = True


class IdempotencyKeyReused(InvalidInput):
    status = 422
    code = "idempotency_key_reused"


class AuditEntryNotFound(NotFound):
    code = "audit_entry_not_found"

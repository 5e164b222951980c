"""What a key must be allowed to do for a request: decided here alone, by method and family of paths."""

PREFIX = "/v1/"
SCOPES = ("read", "write", "train", "admin")
_LOOKING = frozenset({"GET", "HEAD", "OPTIONS"})
_ADMIN = frozenset({"keys", "audit_log"})
_TRAIN = frozenset({"fine_tuning", "searches", "experiments", "evaluations", "jobs"})
"""Families whose orders start, steer or end long computations; `jobs` can pause and cancel those."""
_GRADERS = ("fine_tuning", "alpha", "graders")
"""They grade at once: no order of a long computation, though they stand among those."""
_ANSWERING = (("chat", "completions"), ("completions",), ("embeddings",), ("responses",), (*_GRADERS, "run"))


def needed_scope(method: str, path: str) -> str:
    """The scope for `path` (without the prefix /v1), such as "train" for POST fine_tuning/jobs.

    An unknown family is judged by its method, so a new route is never open by accident: looking needs read, anything
    else write.
    """
    family = _steps(path)[0]
    if family in _ADMIN:
        return "admin"
    if method in _LOOKING:
        return "read"
    if _steps(path)[: len(_GRADERS)] == _GRADERS:
        return "write"
    if family in _TRAIN or (method == "POST" and _works_where_training_does(family, path)):
        return "train"
    return "write"


def _works_where_training_does(family: str, path: str) -> bool:
    """An export and the check of a client's adapter compute for minutes, on the workers that train."""
    return family == "adapters" or (family == "models" and path.rstrip("/").endswith("/export"))


def spends_tokens(method: str, path: str) -> bool:
    """Whether the request asks a model, so that token limits apply."""
    return method == "POST" and _steps(path) in _ANSWERING


def changes_something(method: str, path: str) -> bool:
    """Whether the request leaves a trace: not looking, not asking a model, not searching, not checking a grader.

    Of a chat whose answer is kept its body alone tells: see `kept_chats`.
    """
    if method in _LOOKING or spends_tokens(method, path):
        return False
    steps = _steps(path)
    searches = len(steps) == 3 and (steps[0], steps[2]) == ("vector_stores", "search")
    return not (method == "POST" and (searches or steps == (*_GRADERS, "validate")))


def _steps(path: str) -> tuple[str, ...]:
    return tuple(path.strip("/").split("/"))

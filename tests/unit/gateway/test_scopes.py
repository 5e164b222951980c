"""Which scope a request needs, which requests ask a model, which leave a trace."""

import pytest

from services.gateway.limits import duration
from services.gateway.scopes import changes_something, needed_scope, spends_tokens


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "files", "read"),
        ("HEAD", "files/x", "read"),
        ("POST", "files", "write"),
        ("DELETE", "files/x", "write"),
        ("PATCH", "something/new", "write"),
        ("POST", "chat/completions", "write"),
        ("GET", "chat/completions", "read"),
        ("GET", "chat/completions/chatcmpl-1", "read"),
        ("GET", "chat/completions/chatcmpl-1/messages", "read"),
        ("POST", "chat/completions/chatcmpl-1", "write"),
        ("DELETE", "chat/completions/chatcmpl-1", "write"),
        ("POST", "fine_tuning/jobs", "train"),
        ("POST", "fine_tuning/jobs/x/cancel", "train"),
        ("POST", "fine_tuning/alpha/graders/run", "write"),
        ("POST", "fine_tuning/alpha/graders/validate/", "write"),
        ("POST", "fine_tuning/alpha/other", "train"),
        ("GET", "fine_tuning/jobs", "read"),
        ("POST", "experiments", "train"),
        ("POST", "jobs/x/pause", "train"),
        ("POST", "evaluations", "train"),
        ("GET", "evaluations/x/answers", "read"),
        ("POST", "adapters", "train"),
        ("DELETE", "adapters/x", "write"),
        ("GET", "adapters", "read"),
        ("POST", "models/ft:a:b:c:d/export", "train"),
        ("POST", "models/a/b/export/", "train"),
        ("DELETE", "models/ft:a:b:c:d", "write"),
        ("DELETE", "models/a/export", "write"),
        ("GET", "models/a/export", "read"),
        ("GET", "keys", "admin"),
        ("GET", "keys/", "admin"),
        ("DELETE", "keys/x", "admin"),
        ("GET", "audit_log", "admin"),
    ],
)
def test_knows_the_scope_of_a_request(method: str, path: str, scope: str) -> None:
    assert needed_scope(method, path) == scope


def test_knows_what_asks_a_model_and_what_leaves_a_trace() -> None:
    assert spends_tokens("POST", "chat/completions")
    assert spends_tokens("POST", "embeddings/")
    assert spends_tokens("POST", "fine_tuning/alpha/graders/run")
    assert not spends_tokens("POST", "fine_tuning/alpha/graders/validate")
    assert not spends_tokens("GET", "chat/completions")
    assert not spends_tokens("POST", "chat/completions/chatcmpl-1")
    assert changes_something("POST", "chat/completions/chatcmpl-1")
    assert changes_something("DELETE", "chat/completions/chatcmpl-1")
    assert changes_something("DELETE", "files/x")
    assert not changes_something("POST", "vector_stores/x/search")
    assert changes_something("POST", "files/x/search")
    assert not changes_something("POST", "vector_stores/x/search/")
    assert changes_something("DELETE", "models/search")
    assert changes_something("DELETE", "models/a/search")
    assert changes_something("POST", "evals/search")
    assert changes_something("POST", "fine_tuning/checkpoints/a/search")
    assert not changes_something("POST", "embeddings")
    assert not changes_something("POST", "fine_tuning/alpha/graders/validate")
    assert changes_something("POST", "fine_tuning/jobs")
    assert not changes_something("GET", "files")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0001, "1ms"), (0.12, "120ms"), (1, "1s"), (1.2, "2s"), (59.5, "1m0s"), (360, "6m0s"), (3661, "1h1m1s")],
)
def test_spells_durations_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text

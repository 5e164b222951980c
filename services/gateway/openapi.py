"""What /openapi.json says beyond the routes: subjects, the key, refusals in their envelope, answers not in JSON."""

import re
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.gateway.openapi_parameters import meaning
from shared.answers import Answer

DESCRIPTION = """\
Make a generative model better on your own domain, and prove by how much.

`/v1` speaks OpenAI's wire format: point the unmodified `openai` client here by its `base_url`. Our own fields travel in
its `extra_body`. Unknown fields are refused with 400 and their name, never ignored.

* **Keys.** `Authorization: Bearer sk-uplift-…`, on loopback too.
* **Lists** are pages: `data`, `first_id`, `last_id`, `has_more`; the next page is `?after=<last_id>`.
* **Errors** are `{"error": {"message", "type", "param", "code"}}`; `param` names the field.
* **Retries.** 429 and 503 carry `Retry-After` (seconds). A POST with an `Idempotency-Key` is done once; its first
  answer comes again for a day, but a stream, or one of more than 4 MiB, cannot: that is a 409.
* **Times** are unix seconds. Every answer has an `x-request-id`.
"""
SUBJECTS = {
    "chat": "Ask any model id: base model, adapter, checkpoint, variant or release; whole or streamed; stored answers.",
    "embeddings": "Vectors of texts.",
    "models": "Every model id that can be asked.",
    "adapters": "LoRA weights: those that training made and those that clients bring.",
    "files": "Bytes that clients upload and that results are written to.",
    "uploads": "Files that come in parts.",
    "batches": "Many requests in one file, answered within a day.",
    "fine_tuning": "Train adapters: jobs, their events and checkpoints; pause, resume, cancel.",
    "recipes": "Named settings of a training run, and what every field means.",
    "searches": "Look for the best recipe by validation loss, in trials that are fine-tuning jobs.",
    "vector_stores": "Documents, cut into passages, indexed and searched.",
    "evals": "Grade answers as OpenAI's evals do.",
    "datasets": "Immutable versions of examples, cleaned and split.",
    "prompts": "Versioned prompt layouts.",
    "variants": "All that decides an answer, under one model id: base model, adapter, prompt, retrieval, sampling.",
    "releases": "Stable model ids that point to a variant, with history and rollback.",
    "experiments": "Compare variants on one frozen test set.",
    "evaluations": "One variant's answers on one split, scored example by example.",
    "jobs": "Every durable unit of work, whatever its kind.",
    "keys": "API keys of the project, their scopes and ends.",
    "audit_log": "Who changed what, when: append-only.",
    "health": "For load balancers; they need no key.",
}
"""The path's first word, which is the tag, and what it is about."""
REFUSALS = {
    "400": "The request makes no sense here; `param` names the field.",
    "401": "No API key, or one that is not known, was revoked or has expired.",
    "403": "The key lacks the scope, or the Host or Origin is not this server's.",
    "404": "There is nothing of that id in this project.",
    "409": "Not possible in the present state, or the first request with this Idempotency-Key still runs or was "
    "answered by a stream.",
    "413": "Larger than this server takes.",
    "415": "The body is in an encoding that this server does not read.",
    "422": "The Idempotency-Key was used with another body.",
    "429": "Over a rate limit or a quota, or the queue is full; `Retry-After` says when to come again.",
    "503": "Something that the server needs is away for the moment.",
}
_CHUNKS = 'data: {"object": "chat.completion.chunk", "choices": [{"delta": {"content": "Hi"}}]}\n\ndata: [DONE]\n\n'
_EVENTS = 'event: end\ndata: {"status": "succeeded", "progress": null, "error": null}\n\n'
_ANSWERED_WITH: dict[str, dict[str, Any]] = {
    # OpenAPI 3.1 has no schema for the events of a stream (3.2's `itemSchema`), and a string it is not
    "post /v1/chat/completions": {"text/event-stream": {"example": _CHUNKS}},
    "/events": {"text/event-stream": {"example": _EVENTS}},
    "/content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    "/report.md": {"text/markdown": {"schema": {"type": "string"}}},
    "/report.html": {"text/html": {"schema": {"type": "string"}}},
}
"""Answers that are no JSON, by the end of verb and path."""
_EITHER = {"post /v1/chat/completions", "/events"}
"""Those that answer JSON unless they are asked to stream."""
_ERROR = {
    "type": "object",
    "description": "What happened, where, and what to do.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field that is at fault."},
                "code": {"type": ["string", "null"], "description": "A word for programs."},
            },
        }
    },
    "examples": [
        {
            "error": {
                "message": "There is no file 'file-abc' in this project.",
                "type": "not_found_error",
                "param": "file_id",
                "code": "file_not_found",
            }
        }
    ],
}
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_NAMED = {"x-request-id": {"$ref": "#/components/headers/RequestId"}}
_LATER = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}


def describe(app: FastAPI) -> None:
    """Let `app.openapi()` answer the complete description, made once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    description=DESCRIPTION,
                    routes=app.routes,
                    separate_input_output_schemas=False,  # what an answer echoes has the name that it was sent under
                )
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(schema: dict[str, Any]) -> dict[str, Any]:
    parts = schema.setdefault("components", {})
    for name in ("HTTPValidationError", "ValidationError"):
        parts.get("schemas", {}).pop(name, None)
    parts.setdefault("schemas", {})["Error"] = _ERROR
    _restore_examples(parts["schemas"])
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "An API key, sk-uplift-…"}}
    parts["responses"] = {
        status: {
            "description": text,
            "headers": _NAMED | (_LATER if status in {"429", "503"} else {}),
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
        for status, text in REFUSALS.items()
    }
    parts["headers"] = {"RequestId": {"description": "Names this request in the log.", "schema": {"type": "string"}}}
    for path, operations in schema["paths"].items():
        for verb, operation in operations.items():
            _describe_operation(path, verb, operation)
    _write_whole_bounds(schema)
    used = {operation["tags"][0] for operations in schema["paths"].values() for operation in operations.values()}
    schema["tags"] = [{"name": name, "description": text} for name, text in SUBJECTS.items() if name in used]
    return schema


def _restore_examples(schemas: dict[str, Any]) -> None:
    """As the models give them: the framework leaves every null out."""
    for model in _models(Answer):
        extra = model.model_config.get("json_schema_extra")
        name = f"{model.__module__}.{model.__name__}".replace(".", "__")
        found = schemas.get(model.__name__) or schemas.get(name)
        if found is not None and isinstance(extra, dict) and "examples" in extra:
            found["examples"] = extra["examples"]


def _models(base: type[Answer]) -> Iterator[type[Answer]]:
    for one in base.__subclasses__():
        yield one
        yield from _models(one)


def _describe_operation(path: str, verb: str, operation: dict[str, Any]) -> None:
    words = [word for word in path.split("/") if word and word != "v1" and not word.startswith("{")]
    answers = operation["responses"]
    answers.pop("422", None)
    operation["tags"] = ["health"] if not path.startswith("/v1/") else [words[0]]
    operation["operationId"] = "_".join([verb, *re.findall(r"\w+", path.removeprefix("/v1"))])
    operation["summary"] = re.split(r"[.:;](?:\s|$)", operation["description"])[0]
    for parameter in operation.get("parameters", []):
        said = meaning(path, parameter["name"])
        if said is not None:
            parameter.setdefault("description", said)
    for suffix, content in _ANSWERED_WITH.items():
        if f"{verb} {path}".endswith(suffix) and not path.startswith("/v1/vector_stores"):
            kept = answers["200"].get("content", {}) if suffix in _EITHER else {}
            answers["200"]["content"] = kept | content
    if operation["tags"] == ["health"]:
        statuses = {"503"} if path == "/readyz" else set()
    else:
        operation["security"] = [{"key": []}]
        statuses = {"400", "401", "403", "429", "503"} | (
            {"404"} if "{" in path or verb == "post" or _is_list(operation) else set()
        )
        statuses |= {"409", "413", "415", "422"} if verb == "post" else {"409"} if verb == "delete" else set()
    operation["responses"] |= {status: {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}
    _name_alone(answers["200"].get("content", {}).get("application/json", {}))
    answers["200"]["headers"] = _NAMED
    if "application/json" not in answers["200"]["content"]:
        answers["200"]["description"] = operation["summary"]


def _name_alone(content: dict[str, Any]) -> None:
    """Only the answer's schema: the framework mixes it with that of the function's `dict[str, Any]`."""
    reference = content.get("schema", {}).get("$ref")
    if reference is not None:
        content["schema"] = {"$ref": reference}


def _write_whole_bounds(part: Any) -> None:
    """50 for 50.0, and 2^63 to its last digit: the framework writes every bound as a float."""
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    for one in inner:
        _write_whole_bounds(one)
    if isinstance(part, dict):
        for name in _BOUNDS & part.keys():
            if isinstance(part[name], float) and part[name].is_integer():
                part[name] = int(part[name])


def _is_list(operation: dict[str, Any]) -> bool:
    return any(parameter["name"] == "after" for parameter in operation.get("parameters", []))

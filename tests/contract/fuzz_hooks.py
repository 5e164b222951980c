"""What schemathesis is told beyond its settings: a rule that no schema can state may refuse what the schema allows."""

import json
import os
from collections import Counter
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.transport import Response
from schemathesis.generation.meta import CoveragePhaseData
from schemathesis.openapi.checks import RejectedPositiveData, UseAfterFree

# how many of an operation's edge cases of a body are asked before only some are; unset: all
EDGES = int(os.environ.get("UPLIFT_FUZZ_EDGES", "0"))
SPARSE = 10
_edges_of: Counter[str] = Counter()
MOST_TOKENS = 16
OWN_KEY = os.environ.get("UPLIFT_FUZZ_OWN_KEY")


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    """Of the edge cases of a body, ask the first EDGES and every tenth after them: a grader's alone are a thousand."""
    phase = case.meta.phase.data if case.meta else None
    if not (EDGES and isinstance(phase, CoveragePhaseData) and phase.parameter_location is ParameterLocation.BODY):
        return True
    _edges_of[case.operation.label] += 1
    met = _edges_of[case.operation.label]
    return met <= EDGES or met % SPARSE == 0


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Ask the tiny model where an example names the one of 135 million parameters, and for few tokens."""
    if isinstance(body, dict) and body.get("model") == "smollm2-135m-instruct":
        body["model"] = "tiny"
    if isinstance(body, dict) and "messages" in body and body.get("max_tokens") is None:
        body["max_completion_tokens"] = body.get("max_completion_tokens") or 4
    for name in ("max_tokens", "max_completion_tokens"):
        if isinstance(body, dict) and isinstance(body.get(name), int) and body[name] > MOST_TOKENS:
            body[name] = MOST_TOKENS  # a right order, but an answer as long as the window takes minutes
    return body


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Spare the key that asks: a run that revoked it would test nothing but 401 from then on."""
    if case.method == "DELETE" and (case.path_parameters or {}).get("key_id") == OWN_KEY:
        case.path_parameters["key_id"] = "key_gone"


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext, failure: Failure, case: schemathesis.Case, response: Response
) -> bool:
    """Keep the failure, unless it is none."""
    if isinstance(failure, UseAfterFree):
        return case.operation.path != "/v1/keys/{key_id}"  # a revoked key stays to be seen, with when it was revoked
    if isinstance(failure, AcceptedNegativeData):
        return not _is_right_as_it_was_sent(failure, case, response)
    if isinstance(failure, RejectedPositiveData) and response.status_code == 400:
        return _refuses_the_shape(response)
    return True


def _is_right_as_it_was_sent(failure: Failure, case: schemathesis.Case, response: Response) -> bool:
    """What makes the data wrong is not in the request: a form has no field for an empty list, and the address no name
    for a pair that was left out."""
    if case.media_type == "multipart/form-data" and isinstance(case.body, dict):
        empty = [name for name, value in case.body.items() if value == []]
        return any(f"/properties/{name} " in failure.message for name in empty)
    names = [name for name, _ in parse_qsl(urlsplit(response.request.url).query, keep_blank_values=True)]
    return "violates `propertyNames`" in failure.message and "metadata[]" not in names


def _refuses_the_shape(response: Response) -> bool:
    """Whether the 400 is for the request's shape, and not for a rule between fields or on their content (shares that
    add up to 1, …).

    A refusal of the shape itself is written `<field>: <what is wrong>` by the edge; one of those for a request that
    the schema allows means that the schema is wrong, and counts.
    """
    error = json.loads(response.content)["error"]
    shape = error["code"] == "invalid_input" and error["message"].startswith(f"{error['param'] or 'body'}: ")
    return shape and "Value error" not in error["message"]

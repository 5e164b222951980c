"""What schemathesis is told beyond its settings: a rule that no schema can state may refuse what the schema allows."""

import json
import os
from collections import Counter
from typing import Any

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.transport import Response
from schemathesis.generation.meta import CoveragePhaseData
from schemathesis.openapi.checks import RejectedPositiveData

# how many of an operation's edge cases of a body are asked before only some are; unset: all
EDGES = int(os.environ.get("UPLIFT_FUZZ_EDGES", "0"))
SPARSE = 10
_edges_of: Counter[str] = Counter()


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
    return body


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext, failure: Failure, case: schemathesis.Case, response: Response
) -> bool:
    """Keep the failure unless a 400 names a rule between fields or on their content (shares that add up to 1, …).

    A refusal of the shape itself is written `<field>: <what is wrong>` by the edge; one of those for a request that
    the schema allows means that the schema is wrong, and counts.
    """
    if not isinstance(failure, RejectedPositiveData) or response.status_code != 400:
        return True
    error = json.loads(response.content)["error"]
    shape = error["code"] == "invalid_input" and error["message"].startswith(f"{error['param'] or 'body'}: ")
    return shape and "Value error" not in error["message"]

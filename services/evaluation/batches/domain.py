"""The lines of a batch: what each must look like, and what is wrong with a file whose lines do not."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

Endpoint = Literal["/v1/chat/completions", "/v1/embeddings"]
Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
OPEN: frozenset[str] = frozenset({"validating", "in_progress"})
"""States in which lines are still asked."""
MOST_LINES = 50_000
MOST_BYTES = 200 * 2**20
LONGEST_LINE = 4 * 2**20
WINDOW_SECONDS = 24 * 3600
_LONGEST_ID = 512
_MOST_PROBLEMS = 100
_FIELDS = {"custom_id", "method", "url", "body"}


@dataclass(frozen=True)
class Line:
    """One request; `number` counts from 1 and names it within its batch."""

    number: int
    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a line, or with the file where `line` is None; the fields of OpenAI's batch errors."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def as_record(self) -> dict[str, Any]:
        return {"code": self.code, "line": self.line, "message": self.message, "param": self.param}


class LineRefused(Exception):
    """A line cannot be asked."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True)
class Ending:
    """How a batch ends, and the error of every line that was not asked."""

    status: Status
    code: str = ""
    message: str = ""


@dataclass
class Checked:
    """What reading the whole file found."""

    total: int = 0
    models: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    @property
    def model(self) -> str | None:
        """The model that every line names, if it is one."""
        return next(iter(self.models)) if len(self.models) == 1 else None


def check(lines: Iterable[tuple[int, bytes]], endpoint: str) -> Checked:
    """Read every line; the first hundred problems are kept. Memory grows with the ids, not with the bodies."""
    found = Checked()
    seen: dict[str, int] = {}
    for number, raw in lines:
        if not raw.strip():
            continue
        found.total += 1
        if found.total > MOST_LINES:
            found.problems.append(Problem("too_many_tasks", f"A batch has at most {MOST_LINES} lines.", number))
            break
        try:
            line = parse(number, raw, endpoint)
            first = seen.setdefault(line.custom_id, number)
            if first != number:
                message = f"custom_id {line.custom_id!r} was used in line {first} already."
                raise LineRefused(Problem("duplicate_custom_id", message, number, "custom_id"))
            found.models.add(line.body["model"])
        except LineRefused as refused:
            found.problems.append(refused.problem)
            if len(found.problems) == _MOST_PROBLEMS:
                break
    if not found.total:
        found.problems.append(Problem("empty_file", "The file holds no request: write one JSON object a line."))
    return found


def parse(number: int, raw: bytes, endpoint: str) -> Line:
    """The request of a line; raises LineRefused. What the body holds beside its model is the worker's to judge."""

    def refuse(code: str, message: str, param: str | None = None) -> NoReturn:
        raise LineRefused(Problem(code, message, number, param))

    row = _json(raw, refuse)
    if not isinstance(row, dict):
        refuse("invalid_json_line", "The line is no JSON object.")
    for name in sorted(_FIELDS):
        if name not in row:
            refuse("missing_required_parameter", f"{name} is missing.", name)
    unknown = sorted(set(row) - _FIELDS)
    if unknown:
        refuse("unknown_parameter", f"{unknown[0][:100]} is unknown; leave it out.", unknown[0][:100])
    if row["method"] != "POST":
        refuse("invalid_method", f"method is {_short(row['method'])}; it must be POST.", "method")
    if row["url"] != endpoint:
        refuse("invalid_url", f"url is {_short(row['url'])}; this batch is for {endpoint}.", "url")
    custom_id, body = row["custom_id"], row["body"]
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _LONGEST_ID or not custom_id.isprintable():
        refuse("invalid_value", f"custom_id must be 1 to {_LONGEST_ID} printable characters.", "custom_id")
    if not isinstance(body, dict):
        refuse("invalid_value", "body must be a JSON object.", "body")
    if not isinstance(body.get("model"), str) or not body["model"]:
        refuse("missing_required_parameter", "body.model is missing.", "body.model")
    return Line(number, custom_id, body)


def ending(batch: str, job: str, *, complete: bool) -> Ending:
    """The last state of a batch, given its state, the end of the job that asked its lines, and whether it has all."""
    if batch == "failed":
        return Ending("failed")
    if "cancelled" in (batch, job) or batch == "cancelling":
        return Ending("cancelled", "batch_cancelled", "The batch was cancelled before this request was made.")
    if job == "failed":
        return Ending("failed", "batch_failed", "The batch failed before this request was made.")
    if complete:
        return Ending("completed")
    return Ending(
        "expired", "batch_expired", "This request could not be executed before the completion window expired."
    )


def answer_line(
    batch_id: str, number: int, custom_id: str, *, status_code: int, request_id: str, body: Any
) -> dict[str, Any]:
    """A line of an output or error file: what was answered."""
    response = {"status_code": status_code, "request_id": request_id, "body": body}
    return {"id": _line_id(batch_id, number), "custom_id": custom_id, "response": response, "error": None}


def unasked_line(batch_id: str, line: Line, end: Ending) -> dict[str, Any]:
    """A line of an error file: the request was never made."""
    error = {"code": end.code, "message": end.message}
    return {"id": _line_id(batch_id, line.number), "custom_id": line.custom_id, "response": None, "error": error}


def _line_id(batch_id: str, number: int) -> str:
    return f"batch_req_{batch_id.removeprefix('batch_')}_{number}"


def _json(raw: bytes, refuse: Any) -> Any:
    try:
        return json.loads(raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8"), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        refuse("invalid_json_line", f"Not valid JSON: {error.msg} at column {error.colno}.")
    except UnicodeDecodeError:
        refuse("invalid_json_line", "Not valid UTF-8.")
    except (ValueError, RecursionError) as error:
        refuse("invalid_json_line", f"Not usable JSON: {error}.")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _short(value: Any) -> str:
    return json.dumps(value)[:100]

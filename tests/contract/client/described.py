"""Holds answers against the platform's own description of them. Imports nothing of ours."""

import re
from typing import Any

try:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
except ImportError:  # the older client's environment: what it is answered is what the newer one is
    Draft202012Validator = None

JSON = "application/json"


class Described:
    """An OpenAPI description, and what was answered otherwise; `problems` are those since they were last `told`."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.held = 0
        self._problems: list[str] = []
        paths = sorted(schema["paths"], key=lambda path: (path.count("{"), -len(path)))
        self._answers = [
            (verb.upper(), path, _pattern(path), _validator(content[JSON]["schema"], schema))
            for path in paths
            for verb, operation in schema["paths"][path].items()
            if JSON in (content := operation["responses"]["200"].get("content", {}))
        ]

    def hold(self, response: Any) -> None:
        """Take down what an answer of httpx, once it is read, has otherwise than described."""
        request = response.request
        for verb, path, pattern, validator in self._answers:
            if verb == request.method and pattern.fullmatch(request.url.path):
                self.held += 1
                wrong = best_match(validator.iter_errors(response.json()))
                if wrong is not None:
                    self._problems.append(f"{verb} {path}: {wrong.json_path}: {wrong.message[:500]}")
                return
        self._problems.append(f"{request.method} {request.url.path} answers JSON, but nothing says so")

    def told(self) -> list[str]:
        """Every problem since the last time."""
        problems, self._problems = self._problems, []
        return problems


def is_described(response: Any) -> bool:
    """Whether a description has to say what an answer is: JSON that went well."""
    return response.is_success and response.headers.get("content-type", "").startswith(JSON)


def _pattern(path: str) -> re.Pattern[str]:
    # a model's id may have slashes
    return re.compile(re.sub(r"\\\{(\w+)\\\}", lambda name: ".+" if name[1] == "model" else "[^/]+", re.escape(path)))


def _validator(answer: dict[str, Any], schema: dict[str, Any]) -> Any:
    return Draft202012Validator(answer | {"components": schema["components"]})

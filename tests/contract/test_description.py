"""The API's description is whole: what answers look like, what parameters mean, an example of every body."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from pydantic import BaseModel

from services.gateway.app import create_app
from shared.answers import Answer, Page
from tests.contract.client.described import Described, is_described

SCHEMA = create_app().openapi()
JSON = "application/json"


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, found in SCHEMA["paths"].items():
        for verb, operation in found.items():
            yield f"{verb} {path}", operation


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        part = SCHEMA["components"]["schemas"][part["$ref"].rsplit("/", 1)[-1]]
    return part


def answers() -> dict[str, dict[str, Any]]:
    """The schema of every answer in JSON."""
    contents = {name: operation["responses"]["200"].get("content", {}) for name, operation in operations()}
    return {name: resolved(content[JSON]["schema"]) for name, content in contents.items() if JSON in content}


def bodies() -> dict[str, dict[str, Any]]:
    """The schema of every request body."""
    contents = {name: operation["requestBody"]["content"] for name, operation in operations() if has_body(operation)}
    return {name: resolved(one["schema"]) for name, content in contents.items() for one in content.values()}


def has_body(operation: dict[str, Any]) -> bool:
    return "requestBody" in operation


def models(base: type[Answer]) -> Iterator[type[Answer]]:
    """Every model of an answer, but pages."""
    for one in base.__subclasses__():
        if not issubclass(one, Page):
            yield one
            yield from models(one)


def shown(model: type[BaseModel]) -> list[Any]:
    extra = model.model_config.get("json_schema_extra")
    return list(extra.get("examples", [])) if isinstance(extra, dict) else []


def problems(example: Any, schema: dict[str, Any]) -> list[str]:
    whole = schema | {"components": SCHEMA["components"]}
    return [error.message for error in jsonschema.Draft202012Validator(whole).iter_errors(example)]


@pytest.mark.parametrize("name", sorted(answers()))
def test_every_answer_names_its_fields_and_refuses_others(name: str) -> None:
    answer = answers()[name]
    assert answer.get("properties"), f"{name}: give its route responses=answering(…)"
    assert answer["additionalProperties"] is False


@pytest.mark.parametrize("name", sorted(answers()))
def test_every_answer_has_an_example_that_it_allows(name: str) -> None:
    answer = answers()[name]
    if "has_more" in answer.get("properties", {}) and not answer.get("examples"):
        answer = resolved(answer["properties"]["data"]["items"])
    assert answer.get("examples"), f"{name}: its model has no example"
    for example in answer["examples"]:
        assert problems(example, answer) == []


@pytest.mark.parametrize("name", sorted(bodies()))
def test_every_body_has_an_example_that_it_allows(name: str) -> None:
    body = bodies()[name]
    assert body.get("examples"), f"{name}: its model has no example"
    for example in body["examples"]:
        assert problems(example, body) == []


def test_every_parameter_says_what_it_means() -> None:
    silent = [
        f"{name}: {parameter['name']}"
        for name, operation in operations()
        for parameter in operation.get("parameters", [])
        if not parameter.get("description")
    ]
    assert not silent, f"say it in services/gateway/openapi_parameters.py: {silent}"


def test_every_answer_says_what_it_is() -> None:
    told = {name: operation["responses"]["200"]["description"] for name, operation in operations()}
    assert [name for name, text in told.items() if text in {"", "Successful Response"}] == []


@pytest.mark.parametrize("model", [pytest.param(one, id=one.__name__) for one in models(Answer)])
def test_every_example_is_one_of_its_model(model: type[Answer]) -> None:
    for example in shown(model):
        model.model_validate_json(json.dumps(example))


def answered(verb: str, path: str, body: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=body, request=httpx.Request(verb, f"http://platform{path}"))


def test_an_answer_is_held_against_the_most_literal_path() -> None:
    described = Described(SCHEMA)
    described.hold(answered("GET", "/v1/models/ft:tiny/sums", {"id": "x", "object": "model"}))
    described.hold(answered("POST", "/v1/models/ft:tiny/sums/export", {}))
    described.hold(answered("DELETE", "/v1/files/file-abc", {"id": "file-abc", "object": "file", "deleted": True}))
    assert [problem.split(": ")[0] for problem in described.told()] == [
        "GET /v1/models/{model}",
        "POST /v1/models/{model}/export",
    ]
    assert (described.held, described.told()) == (3, [])


@pytest.mark.parametrize("body", [{"id": "f"}, {"id": "f", "object": "file", "deleted": True, "more": 1}])
def test_a_field_too_few_or_too_many_is_a_problem(body: dict[str, Any]) -> None:
    described = Described(SCHEMA)
    described.hold(answered("DELETE", "/v1/files/f", body))
    assert len(described.told()) == 1


def test_json_from_where_nothing_is_described_is_a_problem_and_a_refusal_is_none() -> None:
    described = Described(SCHEMA)
    described.hold(answered("GET", "/v1/nowhere", {}))
    assert described.told() == ["GET /v1/nowhere answers JSON, but nothing says so"]
    assert not is_described(answered("GET", "/v1/nowhere", {}, status=404))

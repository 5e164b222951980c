"""What docs/ says of the API is what the API is."""

import json
import re

from fastapi.testclient import TestClient

from scripts import generate_conformance, generate_openapi
from services.gateway.app import create_app
from services.gateway.openapi import SUBJECTS

NOT_SERVED = {
    # a checkpoint belongs to its project
    "fine_tuning.checkpoints.permissions.create",
    "fine_tuning.checkpoints.permissions.retrieve",
    "fine_tuning.checkpoints.permissions.list",
    "fine_tuning.checkpoints.permissions.delete",
}


def test_the_openapi_file_is_up_to_date() -> None:
    assert generate_openapi.TARGET.read_text() == generate_openapi.text(), "run `make docs`"


def test_the_conformance_page_is_up_to_date() -> None:
    assert generate_conformance.TARGET.read_text() == generate_conformance.text(), "run `make docs`"


def test_serves_every_promised_method_of_the_client_but_those_named_here() -> None:
    served, covered = generate_conformance.routes(), generate_conformance.tests_by_method()
    promised = [m for m in generate_conformance.methods() if m.resource in generate_conformance.PROMISED]
    assert {m.name for m in promised if not generate_conformance.is_served(m, served, covered)} == NOT_SERVED


def test_every_served_method_has_a_test_and_every_test_covers_a_method() -> None:
    served, covered = generate_conformance.routes(), generate_conformance.tests_by_method()
    methods = {method.name: method for method in generate_conformance.methods()}
    assert set(covered) - set(methods) == set()
    promised = {name: found for name, found in methods.items() if found.resource in generate_conformance.PROMISED}
    works = {name for name, method in promised.items() if generate_conformance.is_served(method, served, covered)}
    assert works - set(covered) == set()


def test_calls_no_request_unserved_that_a_promised_method_sends_too() -> None:
    served, covered = generate_conformance.routes(), generate_conformance.tests_by_method()
    methods = generate_conformance.methods()
    twins = generate_conformance.same_requests(methods, served, covered)
    chat = {name for name in (method.name for method in methods) if name.startswith("chat.completions.")}
    assert {name: twin.name for name, twin in twins.items()} == {f"beta.{name}": name for name in chat}
    _, unserved = generate_conformance.text().split("## Not served")
    assert "chat.completions" not in unserved
    assert "- **completions**: create" in unserved


def test_every_operation_has_a_subject_a_summary_a_key_and_its_refusals() -> None:
    schema = create_app().openapi()
    assert {tag["name"] for tag in schema["tags"]} <= set(SUBJECTS)
    names = []
    for path, operations in schema["paths"].items():
        for verb, operation in operations.items():
            names.append(operation["operationId"])
            assert operation["tags"][0] in SUBJECTS, f"{path}: say in services/gateway/openapi.py what it is about"
            assert operation["description"], f"{verb} {path}: its route needs a docstring"
            if path.startswith("/v1/"):
                assert operation["security"] == [{"key": []}]
                assert {"400", "401", "403", "429", "503"} <= set(operation["responses"])
                assert ("422" in operation["responses"]) == (verb == "post")
    assert len(set(names)) == len(names)
    assert "HTTPValidationError" not in json.dumps(schema)


def test_the_reference_shows_every_operation_without_scripts_or_other_hosts() -> None:
    app = create_app()
    answer = TestClient(app).get("/docs")  # no key: it says no more than openapi.json
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", answer.text)
    for operations in app.openapi()["paths"].values():
        for operation in operations.values():
            assert f'id="{operation["operationId"]}"' in answer.text
    assert "<code>data[].filename</code>" in answer.text  # what a page lists

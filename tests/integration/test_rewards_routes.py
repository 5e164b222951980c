"""Fine-tuning's graders over HTTP: real live requests, models that say what they are told to, charges to the caller."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared.settings import Settings
from tests.factories.evals import EXACT, LABELLED, SCORED, client_of, similar
from tests.fakes.processes import killed_at_the_end, worker

pytestmark = pytest.mark.stack
RUN, VALIDATE = "/v1/fine_tuning/alpha/graders/run", "/v1/fine_tuning/alpha/graders/validate"
CHAT_TOKENS, EMBED_TOKENS = 13, 4
"""What the stand-ins say that an answer of theirs used."""


@pytest.fixture(scope="module", autouse=True)
def models(stack_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with killed_at_the_end(
        worker(stack_environment, tmp_path_factory.mktemp("models"), app="tests.fakes.eval_models", slots=40)
    ):
        yield


@pytest.fixture
def charged() -> list[int]:
    return []


@pytest.fixture
def client(settings: Settings, project_id: str, charged: list[int]) -> Iterator[TestClient]:
    with client_of(settings, project_id, meter=charged.append) as connected:
        yield connected


def run(client: TestClient, grader: dict[str, Any], sample: str, **item: Any) -> dict[str, Any]:
    answer = client.post(RUN, json={"grader": grader, "model_sample": sample, "item": item})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def multi(formula: str, *graders: dict[str, Any]) -> dict[str, Any]:
    return {"type": "multi", "name": "all", "graders": list(graders), "calculate_output": formula}


def test_asks_every_model_and_charges_what_they_used(client: TestClient, charged: list[int]) -> None:
    grader = multi("exact + scored / 10 + 2 * labelled + cosine", EXACT, SCORED, LABELLED, similar("cosine"))
    number, word = run(client, SCORED, "it is worth 7"), run(client, LABELLED, "it is good")
    assert (number["reward"], word["reward"]) == (7, 1)
    assert charged == [CHAT_TOKENS, CHAT_TOKENS]
    found = run(client, grader, "7", answer="7")
    # "7" is a score but no label
    assert found["reward"] == 0
    assert found["metadata"]["errors"]["model_grader_parse_error"] is True
    assert found["sub_rewards"] == {"exact": 1, "scored": 7, "labelled": 0, "cosine": pytest.approx(1)}
    assert sorted(charged[2:]) == [EMBED_TOKENS, CHAT_TOKENS, CHAT_TOKENS]
    assert found["metadata"]["token_usage"] == sum(charged[2:])
    assert set(found["model_grader_token_usage_per_model"]) == {"score", "label", "all-minilm-l6-v2"}
    without = run(client, multi("exact + scored / 10 + cosine", EXACT, SCORED, similar("cosine")), "7", answer="7")
    assert without["reward"] == pytest.approx(1 + 0.7 + 1)


def test_charges_nothing_where_no_model_is_asked(client: TestClient, charged: list[int]) -> None:
    assert run(client, EXACT, "a", answer="a")["reward"] == 1
    assert run(client, EXACT, "a")["metadata"]["errors"]["invalid_variable_error"] is True
    assert client.post(VALIDATE, json={"grader": SCORED}).status_code == 200
    assert charged == []


def test_a_model_that_cannot_answer_is_a_flag_and_one_that_is_not_here_a_404(client: TestClient) -> None:
    found = run(client, SCORED, "unanswerable")
    assert (found["reward"], found["metadata"]["errors"]["model_grader_server_error"]) == (0, True)
    assert "too long" in found["metadata"]["errors"]["model_grader_server_error_details"]
    absent = multi("exact + scored", EXACT, SCORED | {"model": "missing"})
    answer = client.post(RUN, json={"grader": absent, "model_sample": "a", "item": {"answer": "a"}})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert answer.json()["error"]["param"] == "grader.graders.1.model"


@pytest.mark.parametrize("path", [RUN, VALIDATE])
@pytest.mark.parametrize(
    ("grader", "param", "says"),
    [
        (None, "grader", "dictionary"),
        ({}, "grader", "type"),
        ({"type": "vibes"}, "grader", "string_check"),
        ({"type": "python", "name": "p", "source": "def grade(): ..."}, "grader.type", "sandbox"),
        (multi("p", {"type": "python", "name": "p", "source": ""}), "grader.graders.0.type", "sandbox"),
        (EXACT | {"operation": "near"}, "grader.operation", "ilike"),
        (EXACT | {"extra": 1}, "grader.extra", "not permitted"),
        ({"type": "string_check", "name": "x", "input": "a", "operation": "eq"}, "grader.reference", "required"),
        (EXACT | {"input": "{{1 + 1}}"}, "grader.input", "no variable"),
        (SCORED | {"range": [1, 0]}, "grader", "range"),
        (SCORED | {"input": [{"role": "user", "content": {"type": "input_image", "image_url": "x"}}]},
         "grader.input.0.content", "input_image"),
        (multi("exact", EXACT | {"operation": "near"}), "grader.graders.0.operation", "ilike"),
        (multi("exact", EXACT, EXACT), "grader.graders", "'exact'"),
        (multi("exact", multi("x", EXACT)), "grader.graders.0", "multi"),
        (multi("exact; 1", EXACT), "grader.calculate_output", "'; 1'"),
        (multi("x" * 1001, EXACT), "grader.calculate_output", "1000"),
        ({"type": "multi", "name": "m", "graders": {"a": EXACT | {"input": 5}}, "calculate_output": "a"},
         "grader.graders.a.input", "string"),
        ({"type": "multi", "name": "m", "graders": EXACT | {"input": 5}, "calculate_output": "exact"},
         "grader.graders.input", "string"),
    ],
)  # fmt: skip
def test_a_malformed_grader_is_a_400_that_names_the_field(
    client: TestClient, path: str, grader: Any, param: str, says: str
) -> None:
    body = {"grader": grader} | ({"model_sample": ""} if path == RUN else {})
    answer = client.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [({"model_sample": None}, "model_sample"), ({"item": [1]}, "item"), ({"colour": "red"}, "colour")],
)
def test_a_malformed_order_is_a_400_that_names_the_field(
    client: TestClient, change: dict[str, Any], param: str
) -> None:
    answer = client.post(RUN, json={"grader": EXACT, "model_sample": ""} | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_good_grader_comes_back(client: TestClient) -> None:
    assert client.post(VALIDATE, json={"grader": EXACT}).json() == {"grader": EXACT}
    several = multi("exact + scored", EXACT, SCORED | {"pass_threshold": 5})
    assert client.post(VALIDATE, json={"grader": several}).json() == {"grader": several}

"""What tests/integration/conftest.py promises: no in-process client gets an answer that is not as described."""

from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.contract.client.described import Described


def test_an_answer_that_is_not_as_described_is_found(described: Described) -> None:
    app = FastAPI()

    @app.get("/v1/models/{model}")
    def show_model(model: str) -> dict[str, str]:
        return {"id": model}

    TestClient(app).get("/v1/models/tiny")
    problems = described.told()
    assert len(problems) == 1
    assert problems[0].startswith("GET /v1/models/{model}: ")

"""Evals and runs as a client would order them, over questions with an answer."""

import io
import json
from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient

from services.data.routes import router as data
from services.evaluation.evals.routes import router
from services.evaluation.rewards.routes import router as rewards
from shared.settings import Settings
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.fakes.access import always

ITEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "question": {"type": "string"},
        "answer": {"type": "string"},
        "messages": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["question", "answer"],
}
SAID, WANTED = "{{sample.output_text}}", "{{item.answer}}"
EXACT = {"type": "string_check", "name": "exact", "input": SAID, "operation": "eq", "reference": WANTED}
JUDGED = [{"role": "user", "content": SAID}]
SCORED = {"type": "score_model", "name": "scored", "model": "score", "input": JUDGED, "range": [0, 10]}
LABELLED = {"type": "label_model", "name": "labelled", "model": "label", "input": JUDGED}
LABELLED |= {"labels": ["good", "bad"], "passing_labels": ["good"]}


def similar(metric: str, threshold: float = 0.9) -> dict[str, Any]:
    made = {"type": "text_similarity", "name": metric, "evaluation_metric": metric, "pass_threshold": threshold}
    return made | {"input": SAID, "reference": WANTED}


def client_of(settings: Settings, project_id: str, *, meter: Callable[[int], None] = lambda _: None) -> TestClient:
    """Evals, graders and files over HTTP, as one project; `meter` hears the tokens that it is charged."""
    who = Caller(project_id, "p", "org", "key", (), "req", meter)
    routers = [router, rewards, data]
    made = create_app("evals", routers, wiring_factory=lambda: Wiring.from_settings(settings), access=always(who))
    return TestClient(made)


def make_eval(client: TestClient, *criteria: dict[str, Any]) -> str:
    config = {"type": "custom", "item_schema": ITEM_SCHEMA, "include_sample_schema": True}
    order = {"name": "facts", "data_source_config": config, "testing_criteria": list(criteria) or [EXACT]}
    made = client.post("/v1/evals", json=order)
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


def content(*rows: dict[str, Any]) -> dict[str, Any]:
    """Rows of the order itself; a row without an item is one: question and answer."""
    return {"type": "file_content", "content": [row if "item" in row else {"item": row} for row in rows]}


def row(question: str, answer: str = "", **more: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer or question} | more


def uploaded(client: TestClient, *lines: Any) -> dict[str, Any]:
    """The same rows as an uploaded file."""
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    file = {"file": ("rows.jsonl", io.BytesIO(text.encode()))}
    made = client.post("/v1/files", files=file, data={"purpose": "evals"})
    assert made.status_code == 200, made.text
    return {"type": "file_id", "id": made.json()["id"]}


def completions(source: dict[str, Any], model: str = "echo", **changes: Any) -> dict[str, Any]:
    template = {"type": "template", "template": [{"role": "user", "content": "{{item.question}}"}]}
    return {"type": "completions", "model": model, "source": source, "input_messages": template} | changes


def start(client: TestClient, eval_id: str, data_source: dict[str, Any]) -> str:
    made = client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": data_source})
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


def show(client: TestClient, eval_id: str, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/evals/{eval_id}/runs/{run_id}").json()
    return found


def all_items(client: TestClient, eval_id: str, run_id: str, **query: Any) -> list[dict[str, Any]]:
    """Every output item, page by page."""
    seen: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        path = f"/v1/evals/{eval_id}/runs/{run_id}/output_items"
        found = client.get(path, params={"limit": 7} | query | after).json()
        seen += found["data"]
        if not found["has_more"]:
            return seen
        after = {"after": found["last_id"]}

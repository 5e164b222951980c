"""No project sees another's anything: every route with an id in its path, every table with a project, every list.

The routes are read from the app itself, so a later one is covered from its first day. If this file fails because it
does not know what id belongs into a path, add the parameter to PARAMETERS and, for a new kind, how to make one to
MAKERS; a body that its schema does not explain goes to BODIES.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from services.evaluation.evals.tables import OutputItemRow
from services.generation.stored.answers import A_STORED_COMPLETION
from services.generation.stored.handlers import keep_completion
from services.retrieval.wiring import RetrievalWiring
from services.training.tables import AdapterRow
from shared.database import Database
from shared.ids import new_id
from shared.settings import Settings
from tests.conftest import make_project
from tests.factories.datasets_of_values import make_dataset
from tests.factories.gateway import bearer, new_key, served
from tests.fakes.word_embedder import InProcessAsking, WordEmbedder

pytestmark = pytest.mark.stack
MODEL = "smollm2-135m-instruct"
Operation = tuple[str, str, dict[str, Any]]

PARAMETERS = {
    "/v1/chat/completions/{completion_id}": "stored completion",
    "/v1/files/{file_id}": "file",
    "/v1/uploads/{upload_id}": "upload",
    "/v1/batches/{batch_id}": "batch",
    "/v1/evals/{eval_id}": "eval",
    "/v1/evals/{eval_id}/runs/{run_id}": "eval run",
    "/v1/evals/{eval_id}/runs/{run_id}/output_items/{output_item_id}": "output item",
    "/v1/datasets/{dataset_id}": "dataset",
    "/v1/fine_tuning/jobs/{job_id}": "fine-tuning job",
    "/v1/searches/{search_id}": "search",
    "/v1/adapters/{adapter_id}": "adapter",
    "/v1/vector_stores/{store_id}": "vector store",
    "/v1/vector_stores/{store_id}/files/{file_id}": "file",
    "/v1/vector_stores/{store_id}/file_batches/{batch_id}": "file batch",
    "/v1/models/{model}": "variant's model",
    "/v1/prompts/{prompt_id}": "prompt",
    "/v1/variants/{variant_id}": "variant",
    "/v1/releases/{release_id}": "release",
    "/v1/experiments/{experiment_id}": "experiment",
    "/v1/evaluations/{evaluation_id}": "evaluation",
    "/v1/jobs/{job_id}": "fine-tuning job",
    "/v1/keys/{key_id}": "key",
}
"""A path up to its last parameter → the kind of object whose id belongs there."""
OF_NO_PROJECT = {"/v1/recipes/{recipe_name}"}
"""Paths whose parameter names something that comes with the platform and is everybody's."""

BODIES: dict[str, dict[str, Any]] = {}
"""Bodies of routes whose schema does not tell enough to make one, by path."""

NO_SAMPLE: dict[str, Any] = {"input": [], "output": []} | dict.fromkeys(
    ("model", "finish_reason", "usage", "error", "seed", "temperature", "top_p", "max_completion_tokens")
)
"""What an eval's row without a model has of one."""

HAVING_A_PROJECT = sa.text(
    "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'project_id' "
    "WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace ORDER BY 1"
)
"""Names of the tables with a project."""


@dataclass
class Tenant:
    """A project with one of everything."""

    http: TestClient
    database: Database
    project_id: str
    key: str
    ids: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, **more: Any) -> Any:
        return self.http.request(method, path, headers=bearer(self.key), **more)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.ask("POST", f"/v1/{path}", json=body)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        found: dict[str, Any] = answer.json()
        return found


def a_file(tenant: Tenant) -> str:
    line = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    upload = {"file": ("t.jsonl", line * 12)}
    answer = tenant.ask("POST", "/v1/files", files=upload, data={"purpose": "fine-tune"})
    return str(answer.json()["id"])


def a_training(tenant: Tenant) -> str:
    made = tenant.post("fine_tuning/jobs", model=MODEL, training_file=tenant.ids["file"])
    return str(made["id"])


def a_variant(tenant: Tenant) -> str:
    # equal variants have equal model ids, in any project
    made = tenant.post("variants", name="v", base_model=MODEL, prompt={"instruction": tenant.project_id})
    tenant.ids["variant's model"] = made["model"]
    return str(made["id"])


def a_batch(tenant: Tenant) -> str:
    line = '{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "x"}}\n'
    answer = tenant.ask("POST", "/v1/files", files={"file": ("b.jsonl", line)}, data={"purpose": "batch"})
    made = tenant.post("batches", input_file_id=answer.json()["id"], endpoint="/v1/embeddings", completion_window="24h")
    return str(made["id"])


def an_eval(tenant: Tenant) -> str:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    same = {"type": "string_check", "name": "same", "operation": "eq", "input": "{{item.a}}", "reference": "x"}
    source = {"type": "custom", "item_schema": schema}
    return str(tenant.post("evals", name="e", data_source_config=source, testing_criteria=[same])["id"])


def an_eval_run(tenant: Tenant) -> str:
    source = {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {"a": "x"}}]}}
    return str(tenant.post(f"evals/{tenant.ids['eval']}/runs", data_source=source)["id"])


def an_output_item(tenant: Tenant) -> str:
    """As the run's job would write it, which no worker does here."""
    row = OutputItemRow(id=new_id("outputitem_"), project_id=tenant.project_id, run_id=tenant.ids["eval run"])
    row.position, row.status, row.item, row.sample = 0, "pass", {"a": "x"}, NO_SAMPLE
    row.prompt_tokens = row.completion_tokens = 0
    with tenant.database.transaction(tenant.project_id) as session:
        session.add(row)
        session.flush()
        return row.id


def a_stored_completion(tenant: Tenant) -> str:
    """As a chat with `store` would leave it, whose answer no worker gives here."""
    made = A_STORED_COMPLETION | {"id": new_id("chatcmpl-"), "model": MODEL}
    with tenant.database.transaction(tenant.project_id) as session:
        row = keep_completion(session, tenant.project_id, made, [], {}, days=1, settings=Settings(quota_stored_bytes=0))
        return row.id


def jsonl_of(file_id: str) -> dict[str, Any]:
    return {"type": "jsonl", "source": {"type": "file_id", "id": file_id}}


MAKERS: dict[str, Callable[[Tenant], str]] = {
    "file": a_file,
    "dataset": lambda tenant: make_dataset(tenant.database, tenant.project_id),
    "fine-tuning job": a_training,
    "search": lambda tenant: tenant.post("searches", model=MODEL, dataset=tenant.ids["dataset"])["id"],
    "adapter": lambda tenant: tenant.post(
        "adapters", base_model=MODEL, weights_file=tenant.ids["file"], config_file=tenant.ids["file"]
    )["id"],
    "vector store": lambda tenant: tenant.post("vector_stores", name="s", file_ids=[tenant.ids["file"]])["id"],
    "file batch": lambda tenant: tenant.post(
        f"vector_stores/{tenant.ids['vector store']}/file_batches", file_ids=[tenant.ids["file"]]
    )["id"],
    "upload": lambda tenant: tenant.post("uploads", bytes=3, filename="f", mime_type="text/plain", purpose="user_data")[
        "id"
    ],
    "stored completion": a_stored_completion,
    "batch": a_batch,
    "eval": an_eval,
    "eval run": an_eval_run,
    "output item": an_output_item,
    "prompt": lambda tenant: tenant.post("prompts", name="p", spec={"instruction": "x"})["id"],
    "variant": a_variant,
    "release": lambda tenant: tenant.post("releases", model_id="best", variant=tenant.ids["variant"])["id"],
    "experiment": lambda tenant: tenant.post("experiments", dataset=tenant.ids["dataset"], base_model=MODEL)["id"],
    "evaluation": lambda tenant: tenant.post(
        "evaluations", dataset=tenant.ids["dataset"], variant=tenant.ids["variant"]
    )["id"],
    "key": lambda tenant: tenant.post("keys", name="k")["id"],
}
"""How to make one of each kind, in an order in which each finds what it needs."""


@pytest.fixture(scope="module")
def http(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The gateway with a model to name; searches are answered by the real handler, in the asking thread."""
    home = tmp_path_factory.mktemp("tenants-home")
    (home / "models" / MODEL).mkdir(parents=True)
    (home / "models" / MODEL / "config.json").write_text("{}")
    with served(settings.model_copy(update={"home": home})) as client:
        parts = client.app.state.wiring  # type: ignore[attr-defined]
        embedder = WordEmbedder()
        answering = RetrievalWiring(
            settings=settings, database=parts.database, storage=parts.storage, live=parts.live,
            embedder=lambda _name: embedder,
        )  # fmt: skip
        client.app.state.asking = InProcessAsking(answering)  # type: ignore[attr-defined]
        yield client


@pytest.fixture
def tenants(
    http: TestClient, settings: Settings, database: Database, admin_database: Database
) -> tuple[Tenant, Tenant]:
    def made() -> Tenant:
        project = make_project(admin_database)
        tenant = Tenant(http, database, project, new_key(database, settings, project))
        for kind, make in MAKERS.items():
            tenant.ids[kind] = make(tenant)
        return tenant

    return made(), made()


def operations(http: TestClient) -> list[Operation]:
    """(method, path, schema of the JSON body) of every operation, what destroys last."""
    spec = http.get("/openapi.json").json()
    found: list[Operation] = []
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            found.append((method.upper(), path, resolved(schema, spec)))
    ranks = {"GET": 0, "HEAD": 0, "POST": 1}
    return sorted(found, key=lambda one: (ranks.get(one[0], 2), -len(one[1])))


def resolved(schema: Any, spec: dict[str, Any], depth: int = 8) -> Any:
    """The schema with its references put in."""
    if isinstance(schema, list):
        return [resolved(one, spec, depth) for one in schema]
    if not isinstance(schema, dict) or depth == 0:
        return schema
    if "$ref" in schema:
        return resolved(spec["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]], spec, depth - 1)
    return {name: resolved(one, spec, depth) for name, one in schema.items()}


def smallest(schema: dict[str, Any]) -> Any:
    """A small value that the schema allows: required fields alone, first choices, least numbers."""
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if schema.get("examples"):
        return schema["examples"][0]
    if schema.get("enum"):
        return schema["enum"][0]
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return smallest(schema[name][0])
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return {name: smallest(schema["properties"][name]) for name in schema.get("required", [])}
    if kind == "array":
        return [smallest(schema.get("items", {})) for _ in range(schema.get("minItems", 0))]
    if kind in {"integer", "number"}:
        return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    return False if kind == "boolean" else "x" * max(1, schema.get("minLength", 1))


def heads(path: str) -> list[str]:
    """The path up to each of its parameters."""
    return [path[: match.end()] for match in re.finditer(r"\{[^}]+\}", path)]


def kinds(path: str) -> list[str]:
    unknown = [head for head in heads(path) if head not in PARAMETERS]
    assert not unknown, (
        f"This test does not know which id belongs into {unknown[0]} (from {path}). Name its kind in PARAMETERS of "
        "tests/integration/test_tenants.py, and add how to make one to MAKERS if the kind is new."
    )
    return [PARAMETERS[head] for head in heads(path)]


def filled(path: str, *ids: str) -> str:
    for value in ids:
        path = re.sub(r"\{[^}]+\}", value.replace("\\", ""), path, count=1)
    return path


def send(tenant: Tenant, method: str, path: str, template: str, schema: dict[str, Any]) -> tuple[int, str]:
    """The status and the error's code, empty if it went well."""
    body = BODIES.get(template, smallest(schema) if schema else None)
    answer = tenant.ask(method, path, json=body) if body is not None else tenant.ask(method, path)
    code = answer.json()["error"]["code"] if answer.status_code >= 400 else ""
    return answer.status_code, str(code)


def with_ids(http: TestClient) -> list[Operation]:
    found = [one for one in operations(http) if "{" in one[1] and one[1] not in OF_NO_PROJECT]
    assert len(found) > 25
    return found


def test_answers_404_for_every_id_of_another_project(http: TestClient, tenants: tuple[Tenant, Tenant]) -> None:
    owner, stranger = tenants
    wrong, refused = [], {}
    for method, path, schema in with_ids(http):
        named = kinds(path)
        attempts = [filled(path, *(owner.ids[kind] for kind in named))]
        if len(named) > 1:  # the stranger's own parent, the other project's child
            attempts.append(filled(path, *(stranger.ids[kind] for kind in named[:-1]), owner.ids[named[-1]]))
        for attempt in attempts:
            refused[method, path] = status, code = send(stranger, method, attempt, path, schema)
            if status != 404:
                wrong.append(f"{method} {attempt} ({path}) answered {status} {code}, not 404")
    assert not wrong, "\n".join(wrong)
    # the same requests find something for the owner; else a wrong id would have passed for secrecy
    for method, path, schema in with_ids(http):
        answered = send(owner, method, filled(path, *(owner.ids[kind] for kind in kinds(path))), path, schema)
        assert answered != refused[method, path], f"{method} {path} finds nothing for its owner either: {answered}"


def test_lists_nothing_of_another_project(http: TestClient, tenants: tuple[Tenant, Tenant]) -> None:
    owner, stranger = tenants
    spec, listed = http.get("/openapi.json").json(), 0
    for method, path, _ in operations(http):
        if method != "GET" or "{" in path or not path.startswith("/v1/"):
            continue
        answer = stranger.ask("GET", path)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        assert not [kind for kind, name in owner.ids.items() if name in answer.text], path
        mine = owner.ask("GET", path)
        listed += any(name in mine.text for name in owner.ids.values())
        parameters = spec["paths"][path]["get"].get("parameters", [])
        for name in owner.ids.values() if any(one["name"] == "after" for one in parameters) else ():
            after = stranger.ask("GET", path, params={"after": name})  # no cursor points into another project
            assert after.status_code in {400, 404} or not after.json()["data"], path
    assert listed >= 10


def test_refuses_ids_of_another_project_in_bodies(tenants: tuple[Tenant, Tenant]) -> None:
    owner, stranger = tenants
    theirs, own = owner.ids, stranger.ids
    orders: list[tuple[str, dict[str, Any]]] = [
        ("datasets", {"file": theirs["file"]}),
        ("datasets/raft", {"dataset": theirs["dataset"], "vector_store": own["vector store"]}),
        ("fine_tuning/jobs", {"model": MODEL, "training_file": theirs["file"]}),
        ("fine_tuning/jobs", {"model": MODEL, "dataset": theirs["dataset"]}),
        ("searches", {"model": MODEL, "dataset": theirs["dataset"]}),
        ("searches", {"model": MODEL, "training_file": own["file"], "validation_file": theirs["file"]}),
        ("vector_stores", {"file_ids": [theirs["file"]]}),
        (f"vector_stores/{own['vector store']}/files", {"file_id": theirs["file"]}),
        ("releases", {"model_id": "mine", "variant": theirs["variant"]}),
        ("experiments", {"dataset": theirs["dataset"], "base_model": "none"}),
        ("experiments", {"dataset": own["dataset"], "vector_store": theirs["vector store"], "base_model": "none"}),
        ("evaluations", {"dataset": theirs["dataset"], "variant": own["variant"]}),
        ("evaluations", {"dataset": own["dataset"], "variant": theirs["variant"]}),
        ("batches", {"input_file_id": theirs["file"], "endpoint": "/v1/embeddings", "completion_window": "24h"}),
        (f"vector_stores/{own['vector store']}/file_batches", {"file_ids": [theirs["file"]]}),
        (f"evals/{own['eval']}/runs", {"data_source": jsonl_of(theirs["file"])}),
    ]
    before = rows_by_table(stranger)
    for path, body in orders:
        refused = stranger.ask("POST", f"/v1/{path}", json=body)
        assert refused.status_code in {400, 404}, f"{path} {body}: {refused.status_code} {refused.text}"
    assert rows_by_table(stranger) == before


def test_refuses_ids_of_another_project_in_optional_fields(tenants: tuple[Tenant, Tenant]) -> None:
    owner, stranger = tenants
    tune(owner)
    training = {"model": MODEL, "training_file": stranger.ids["file"]}
    replayed = {"recipe": {"replay_ratio": 0.1}}
    orders: list[tuple[str, str, str, dict[str, Any]]] = [
        ("fine_tuning/jobs", "init_adapter", "tuned adapter", training),
        ("fine_tuning/jobs", "model", "tuned model", training),
        ("fine_tuning/jobs", "replay_file", "file", training | replayed),
        ("fine_tuning/jobs", "validation_file", "file", training),
        ("adapters", "weights_file", "file", {"base_model": MODEL, "config_file": stranger.ids["file"]}),
        ("adapters", "config_file", "file", {"base_model": MODEL, "weights_file": stranger.ids["file"]}),
        ("variants", "adapter", "tuned adapter", {"name": "v", "base_model": MODEL}),
        ("variants", "retrieval.vector_store_id", "vector store", {"name": "v", "base_model": MODEL}),
    ]
    before = rows_by_table(stranger)
    for path, name, kind, body in orders:
        refused = stranger.ask("POST", f"/v1/{path}", json=body | naming(name, owner.ids[kind]))
        assert refused.status_code in {400, 404}, f"{path} {name}: {refused.status_code} {refused.text}"
        assert refused.json()["error"]["param"] == name, f"{path} {name}: {refused.text}"
    assert rows_by_table(stranger) == before
    # the same orders with ids of its own are right; else any mistake would have passed for secrecy
    tune(stranger)
    for path, name, kind, body in orders:
        taken = stranger.ask("POST", f"/v1/{path}", json=body | naming(name, stranger.ids[kind]))
        assert taken.status_code == 200, f"{path} {name}: {taken.status_code} {taken.text}"


def naming(field: str, value: str) -> dict[str, Any]:
    """The part of a body that names an object."""
    if field == "retrieval.vector_store_id":
        return {"retrieval": {"vector_store_id": value, "k": 2, "max_passage_tokens": 100}}
    return {field: value}


def tune(tenant: Tenant) -> None:
    """The adapter of the tenant's fine-tuning job, as the job would write it."""
    row = AdapterRow(id=new_id("ad_"), project_id=tenant.project_id, job_id=tenant.ids["fine-tuning job"])
    row.model_id, row.base_model, row.blob_key = f"ft:{MODEL}:p::{new_id('')}", MODEL, "adapters/none"
    row.recipe, row.metrics, row.train_seconds, row.trained_tokens = {}, {}, 1.0, 1
    with tenant.database.transaction(tenant.project_id) as session:
        session.add(row)
    tenant.ids |= {"tuned adapter": row.id, "tuned model": row.model_id}


def rows_by_table(tenant: Tenant) -> dict[str, int]:
    """How many rows the tenant has in every table but the record of its requests."""
    with tenant.database.transaction(tenant.project_id) as session:
        return {
            table: session.scalar(sa.text(f"SELECT count(*) FROM {table}")) or 0
            for table in session.scalars(HAVING_A_PROJECT).all()
            if table != "audit_log"
        }


def test_shows_no_row_of_another_project_in_any_table(database: Database, tenants: tuple[Tenant, Tenant]) -> None:
    owner, stranger = tenants
    with database.system_transaction() as session:
        tables = list(session.scalars(HAVING_A_PROJECT))
    filled_tables = set()
    for table in tables:
        count = sa.text(f"SELECT count(*) FROM {table} WHERE project_id = :owner")
        with database.transaction(owner.project_id) as session:
            if session.scalar(count, {"owner": owner.project_id}):
                filled_tables.add(table)
        with database.transaction(stranger.project_id) as session:
            assert session.scalar(count, {"owner": owner.project_id}) == 0, table
            others = sa.text(f"SELECT count(*) FROM {table} WHERE project_id <> :own")
            assert session.scalar(others, {"own": stranger.project_id}) == 0, table
        with database.system_transaction() as session:
            assert session.scalar(sa.text(f"SELECT count(*) FROM {table}")) == 0, table
    assert {"files", "datasets", "training_jobs", "vector_stores", "variants", "jobs", "audit_log"} <= filled_tables


def test_fails_with_advice_at_a_route_it_does_not_know() -> None:
    with pytest.raises(AssertionError, match=r"which id belongs into /v1/novelties/\{novelty_id\}.*PARAMETERS"):
        kinds("/v1/novelties/{novelty_id}/parts")

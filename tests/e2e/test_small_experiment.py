"""The whole platform on the real models: up, one small experiment by the command line, the winner asked, down."""

import json
import zipfile
from pathlib import Path

import openai
import psutil
import pytest

from tests.e2e.conftest import ROOT, uplift

pytestmark = [pytest.mark.e2e, pytest.mark.models, pytest.mark.timeout(900)]
VARIANTS = ["base", "base+prompt", "base+retrieval", "tuned", "raft+retrieval"]


@pytest.fixture(scope="module")
def small_domain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Forty of the demo's documents with their questions: enough for every step, little enough for a test."""
    demo = ROOT / "examples" / "postgresql_parameters"
    folder = tmp_path_factory.mktemp("domain")
    (folder / "documents").mkdir()
    kept = sorted((demo / "documents").iterdir())[::8][:40]
    for document in kept:
        (folder / "documents" / document.name).write_bytes(document.read_bytes())
    names = {document.name for document in kept}
    rows = [json.loads(line) for line in (demo / "questions.jsonl").read_text().splitlines()]
    chosen = [row for row in rows if row["document"] in names]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    return folder / "questions.jsonl", folder / "documents"


@pytest.fixture(scope="module")
def report(environment: dict[str, str], small_domain: tuple[Path, Path]) -> dict[str, object]:
    questions, documents = small_domain
    words = ("improve", "--examples", str(questions), "--documents", str(documents), "--quick", "--json")
    return json.loads(uplift(environment, *words))


def test_measures_every_variant_and_gives_every_comparison_a_verdict(report: dict) -> None:
    assert [variant["name"] for variant in report["variants"]] == VARIANTS
    verdicts = {one["verdict"] for one in report["comparisons"]}
    assert verdicts <= {"better", "worse", "equivalent", "inconclusive"}
    compared = {one["variant"] for one in report["comparisons"] if one["baseline"] == "base"}
    assert compared == set(VARIANTS) - {"base"}
    assert all(one["low"] <= one["difference"] <= one["high"] for one in report["comparisons"])


def test_opens_the_test_split_once(report: dict) -> None:
    assert report["looks_at_test"] == 1
    assert report["dataset"]["sizes"]["test"] > 0


def test_saves_the_report_where_it_says(report: dict, environment: dict[str, str]) -> None:
    latest = Path(environment["UPLIFT_HOME"]) / "reports" / "latest"
    assert json.loads((latest / "report.json").read_text())["experiment_id"] == report["experiment_id"]
    assert "<html" in (latest / "report.html").read_text()
    assert "base+prompt" in (latest / "report.md").read_text()


def test_exports_the_tuned_variant_with_its_scores(report: dict, environment: dict[str, str], tmp_path: Path) -> None:
    models = {variant["name"]: variant["model"] for variant in report["variants"]}
    uplift(environment, "export", models["tuned"], "--output", str(tmp_path))
    with zipfile.ZipFile(tmp_path / f"{models['tuned']}.adapter.zip") as packed:
        assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= set(packed.namelist())
        card = packed.read("README.md").decode()
        assert b"<polyline" in packed.read("curves.svg")
    assert f"| {models['tuned']} | yes | exact_match |" in card
    assert f"| {models['base']} | no | exact_match |" in card
    assert report["dataset"]["sha256"] in card


def test_serves_every_variant_to_the_unmodified_client(report: dict, environment: dict[str, str]) -> None:
    lines = (Path(environment["UPLIFT_HOME"]) / "credentials.env").read_text().splitlines()
    credentials = dict(line.split("=", 1) for line in lines)
    with openai.OpenAI(base_url=credentials["OPENAI_BASE_URL"], api_key=credentials["OPENAI_API_KEY"]) as client:
        listed = [model.id for model in client.models.list()]
        assert listed[0] == "smollm2-135m-instruct"
        assert listed[-1] == "all-minilm-l6-v2"
        question = [{"role": "user", "content": "What type of value does the PostgreSQL parameter work_mem take?"}]
        for variant in report["variants"]:
            assert variant["model"] in listed
            answer = client.chat.completions.create(
                model=variant["model"], messages=question, max_tokens=8, temperature=0
            )
            with client.chat.completions.create(
                model=variant["model"],
                messages=question,
                max_tokens=8,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            ) as stream:
                chunks = list(stream)
            streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            assert streamed == answer.choices[0].message.content
            assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
            retrieves = "retrieval" in variant["name"]
            assert bool(answer.model_dump().get("citations")) == retrieves
        vectors = client.embeddings.create(model="all-minilm-l6-v2", input=["one", "two"])
        assert len(vectors.data) == 2
        assert len(vectors.data[0].embedding) == 384


def test_knows_its_jobs_and_its_processes(report: dict, environment: dict[str, str]) -> None:
    kinds = {line.split()[1] for line in uplift(environment, "jobs", "list", "--limit", "100").splitlines() if line}
    assert len(kinds) > 3
    state = json.loads(uplift(environment, "status", "--json"))
    assert state["phase"] == "ready"
    assert all(process["alive"] for process in state["processes"])
    assert sum(process["memory_mb"] for process in state["processes"]) < 6 * 1024


def test_leaves_no_process_behind(report: dict, environment: dict[str, str]) -> None:
    """Last of all: down, and nothing of this home is left; the next `up` finds everything as it was."""
    state = json.loads(uplift(environment, "status", "--json"))
    uplift(environment, "down")
    assert not [one["pid"] for one in state["processes"] if psutil.pid_exists(one["pid"])]
    home = environment["UPLIFT_HOME"]
    environments = {one.pid: one.info["environ"] or {} for one in psutil.process_iter(["environ"])}
    assert [pid for pid, found in environments.items() if found.get("UPLIFT_HOME") == home] == []
    uplift(environment, "up")
    models = [model["id"] for model in json.loads(uplift(environment, "models", "list", "--json"))]
    assert {variant["model"] for variant in report["variants"]} <= set(models)

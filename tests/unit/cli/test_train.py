"""`uplift train`: how its options are read, and what a run looks like in a log."""

import io
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from services.cli.client import JobFailed, sse_messages
from services.cli.train import _is_training_file, _source, parsed_settings
from services.cli.watching import TrainingBoard, raise_unless_succeeded
from services.training.routes import _wanted
from services.training.schemas import CreateJob


def metrics(step: int, **more: Any) -> dict[str, Any]:
    data = {"step": step, "total_steps": 40, "train_loss": 2.0 / step, "tokens_per_second": 500.0}
    return {"type": "metrics", "level": "info", "message": f"Step {step}", "data": data | more}


def heard(*events: dict[str, Any], terminal: bool = False, left: float | None = None) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=terminal)
    with TrainingBoard(console) as board:
        board.hear_state({"status": "running", "progress": {"done": 0, "total": 40, "seconds_left": left}})
        for event in events:
            board.hear(event)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_reads_settings_as_json_or_words() -> None:
    given = ["rank=8", "schedule=linear", 'targets=["q_proj"]', "patience=null", "learning_rate=5e-4"]
    assert parsed_settings(given) == {
        "rank": 8,
        "schedule": "linear",
        "targets": ["q_proj"],
        "patience": None,
        "learning_rate": 5e-4,
    }
    with pytest.raises(typer.BadParameter, match="'rank' is not of the form"):
        parsed_settings(["rank"])


@pytest.mark.parametrize(
    ("content", "trained_as_it_is"),
    [
        ('\n{"messages": [{"role": "user", "content": "a"}]}\n', True),
        ('{"input": {}, "preferred_output": [], "non_preferred_output": []}\n', True),
        ('{"question": "a", "answer": "b"}\n', False),
        ('{"question": "a", "answer": "b", "input": "c"}\n', False),
        ("question,answer\na,b\n", False),
        ("", False),
    ],
)
def test_imports_questions_and_uploads_chats(tmp_path: Path, content: str, trained_as_it_is: bool) -> None:
    path = tmp_path / "data"
    path.write_text(content)
    assert _is_training_file(path) is trained_as_it_is


def test_a_log_has_lines_of_the_first_step_and_of_validations() -> None:
    warned = {"type": "message", "level": "warn", "message": "2 examples were left out", "data": None}
    said = heard(warned, metrics(1), metrics(2), metrics(3, valid_loss=0.5), left=75).splitlines()
    assert said == [
        "2 examples were left out",
        "step 1/40, loss 2.000, 500 tokens/s, about 1 min 15 s left",
        "step 3/40, loss 0.667, validation loss 0.500, 500 tokens/s, about 1 min 15 s left",
    ]


def test_a_terminal_has_a_bar_with_the_newest_figures() -> None:
    said = heard(metrics(10), terminal=True, left=30)
    assert "25 %" in said
    assert "loss 0.200, 500 tokens/s, about 30 s left" in said


def test_tells_no_speed_where_an_older_job_measured_none() -> None:
    assert heard(metrics(1, tokens_per_second=None)).splitlines() == ["step 1/40, loss 2.000"]


def test_says_why_a_job_failed() -> None:
    with pytest.raises(JobFailed, match=r"ftjob-1 failed: no memory"):
        raise_unless_succeeded("ftjob-1", {"status": "failed", "error": {"message": "no memory"}})
    raise_unless_succeeded("ftjob-1", {"status": "succeeded", "error": None})


def test_reads_server_sent_events() -> None:
    lines = [": hello", "", "id: e-1", 'data: {"a": 1}', "", "event: end", 'data: {"status": "failed"}', "", "id: e-2"]
    one, end = sse_messages(lines)
    assert (one.event, one.id, one.data) == ("message", "e-1", {"a": 1})
    assert (end.event, end.id, end.data) == ("end", None, {"status": "failed"})


class Uploads:
    """Stands for the platform: remembers what was uploaded."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def upload(self, _path: Path, *, name: str, purpose: str) -> str:
        self.names.append(f"{name} for {purpose}")
        return f"file-{len(self.names)}"


def source(
    data: str | None, corpus: str | None, validation: str | None = None, objective: Any = None
) -> tuple[dict[str, Any], list[str]]:
    client = Uploads()
    console = Console(file=io.StringIO())
    return _source(client, console, data, corpus, validation, objective), client.names  # type: ignore[arg-type]


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}\n')
    return str(path)


def test_the_first_row_of_preferences_makes_it_a_dpo_job(pairs: str) -> None:
    uploaded = {"training_file": "file-1", "validation_file": "file-2"}
    for objective in (None, "dpo"):
        assert source(pairs, None, pairs, objective)[0] == {"method": {"type": "dpo"}} | uploaded


def test_refuses_preferences_under_another_objective_before_anything_is_uploaded(pairs: str) -> None:
    with pytest.raises(typer.BadParameter, match="leave objective=supervised out"):
        source(pairs, None, objective="supervised")


@pytest.mark.parametrize("row", ['{"messages": []}', '{"messages": [], "input": "a"}'])
def test_leaves_the_method_of_all_other_rows_to_the_recipe(tmp_path: Path, row: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(row)
    assert source(str(path), None, objective="dpo")[0] == {"training_file": "file-1"}
    assert source("file-a", None, objective="dpo") == ({"training_file": "file-a"}, [])
    assert source("ds_a", None) == ({"dataset": "ds_a"}, [])


def test_what_the_order_says_is_taken_by_the_server(pairs: str) -> None:
    method = source(pairs, None)[0]["method"]
    for recipe in ("default", {"base": "gentle", "rank": 8}, {"base": "default", "objective": "dpo"}):
        body = CreateJob(model="tiny", training_file="file-1", recipe=recipe, method=method)
        assert _wanted(body).recipe.objective == "dpo"


def test_a_corpus_is_a_store_or_a_file_of_texts(tmp_path: Path) -> None:
    method = {"method": {"type": "continued_pretraining"}}
    assert source(None, "vs_manual") == (method | {"training_file": "vs_manual"}, [])
    assert source(None, "file-a", "vs_b") == (method | {"training_file": "file-a", "validation_file": "vs_b"}, [])
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "a"}\n')
    assert source(None, str(texts)) == (method | {"training_file": "file-1"}, ["texts.jsonl for fine-tune"])


@pytest.mark.parametrize("given", [(None, None), ("ds_a", "vs_b")])
def test_learns_from_examples_or_from_documents_not_both(given: tuple[str | None, str | None]) -> None:
    with pytest.raises(typer.BadParameter, match="one of the two"):
        source(*given)
    assert source("ds_a", None) == ({"dataset": "ds_a"}, [])

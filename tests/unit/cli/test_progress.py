"""The board of steps, where there is no terminal: every step's end is said once, in order."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from services.cli.improve import _a_question
from services.cli.progress import StepBoard


def step(name: str, status: str, started: int | None = 100, finished: int | None = None) -> dict[str, Any]:
    return {"name": name, "status": status, "started_at": started, "finished_at": finished, "progress": None}


def test_says_each_end_once_in_a_log() -> None:
    console = Console(file=io.StringIO(), width=100)
    with StepBoard(console) as board:
        with board.step("upload documents") as report:
            report(1, 2, None)
        board.draw([step("train", "running"), step("evaluate", "waiting", None)])
        board.draw([step("train", "succeeded", 100, 161), step("evaluate", "running")])
        board.draw([step("train", "succeeded", 100, 161), step("evaluate", "failed", 161, 165)])
    said = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert said == ["✓ upload documents (0 s)", "✓ train (61 s)", "✗ failed: evaluate (4 s)"]


def test_draws_bars_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with StepBoard(console) as board:
        board.draw([step("train", "running") | {"progress": {"done": 5, "total": 10, "seconds_left": 75}}])
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "train" in said
    assert "50 %" in said
    assert "about 1 min 15 s left" in said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'document,question,answer\nx.md,"What is a, ""b""?",c\n'),
        ("a.jsonl", '{"question": "What is a, \\"b\\"?", "answer": "c"}\n'),
        (
            "chat.jsonl",
            '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "What is a, \\"b\\"?"}, '
            '{"role": "assistant", "content": "c"}]}\n',
        ),
    ],
)
def test_fills_the_snippet_with_the_first_question(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert _a_question(path) == "What is a, 'b'?"

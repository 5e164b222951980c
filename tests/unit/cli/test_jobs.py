"""The table of jobs."""

import io
from typing import Any

import pytest
from rich.console import Console

from services.cli.jobs import jobs_table

JOB: dict[str, Any] = {
    "id": "ftjob-0123456789abcdefghijklmnop",
    "kind": "training.train_adapter",
    "status": "running",
    "progress": {"done": 3, "total": 12, "unit": "steps"},
    "attempt": 1,
    "created_at": 1_700_000_000,
}


def rendered(found: list[dict[str, Any]], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(jobs_table(found))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [40, 60, 200])
def test_shows_whole_ids_on_any_terminal(width: int) -> None:
    assert JOB["id"] in rendered([JOB], width)


def test_shows_how_far_a_job_is_and_nothing_where_it_has_not_said() -> None:
    shown = rendered([JOB, JOB | {"id": "job_2", "status": "queued", "progress": None}], 200).splitlines()
    assert "25 %" in shown[1]
    assert "%" not in shown[2]


def test_shows_an_empty_list_as_its_titles() -> None:
    assert rendered([], 80).split() == ["id", "kind", "status", "progress", "attempt", "created"]

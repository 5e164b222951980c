"""A run survives the death of its worker; in a file of its own, since no other worker may take the job."""

from collections import Counter
from pathlib import Path

import pytest

from shared.settings import Settings
from tests.factories.evals import EXACT, SCORED, all_items, client_of, completions, content, make_eval, row, show, start
from tests.fakes.processes import dispatcher, killed_at_the_end, wait_until, worker

pytestmark = pytest.mark.stack


def test_a_killed_worker_asks_nothing_twice_that_was_stored(
    stack_environment: dict[str, str], settings: Settings, project_id: str, tmp_path: Path
) -> None:
    answering = worker(stack_environment, tmp_path, app="tests.fakes.eval_models", slots=40)
    first = worker(stack_environment, tmp_path, app="services.evaluation.worker", slots=1)
    with (
        client_of(settings, project_id) as client,
        killed_at_the_end(answering, first, dispatcher(stack_environment, tmp_path)),
    ):
        eval_id = make_eval(client, EXACT, SCORED)
        rows = [row(f"q {n} 7") for n in range(100)] + [row(f"gated {n} 7") for n in range(200)]
        run_id = start(client, eval_id, completions(content(*rows)))
        wait_until(lambda: show(client, eval_id, run_id)["result_counts"]["total"] >= 1, seconds=60)
        first.kill()
        before = {item["id"]: item for item in all_items(client, eval_id, run_id, limit=100)}
        (settings.home / f"gate-{project_id}").touch()
        with killed_at_the_end(worker(stack_environment, tmp_path, app="services.evaluation.worker", slots=1)):
            wait_until(lambda: show(client, eval_id, run_id)["status"] == "completed", seconds=90)
        run = show(client, eval_id, run_id)
        after = {item["id"]: item for item in all_items(client, eval_id, run_id, limit=100)}
    assert 0 < len(before) <= 100
    assert run["result_counts"] == {"total": 300, "passed": 300, "failed": 0, "errored": 0}
    assert {key: after[key] for key in before} == before
    lines = (settings.home / "asked").read_text().splitlines()
    asked = Counter(tuple(line.split("\t")[1:]) for line in lines if line.startswith(f"{project_id}\t"))
    done = {item["datasource_item"]["question"] for item in before.values()}
    assert {asked["echo", question] for question in done} == {1}
    assert {asked["score", question] for question in done} == {1}
    # at most what was in flight or heard but not stored is asked again
    assert sum(asked.values()) <= 600 + 2 * 64

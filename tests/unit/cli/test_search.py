"""What `uplift search` shows while it runs, and prints of a report."""

import io
import shlex
from typing import Any

from rich.console import Console

from services.cli.search import show
from services.cli.search_board import SearchBoard
from services.cli.train import parsed_settings

TRIALS: list[dict[str, Any]] = [
    {"number": 0, "status": "complete", "value": 2.5, "params": {"rank": 16, "learning_rate": 0.001}},
    {"number": 1, "status": "pruned", "value": 2.0, "params": {"rank": 4, "learning_rate": 0.0123456}},
    {"number": 2, "status": "failed", "value": None, "params": {"rank": 8, "learning_rate": 0.1}},
    {"number": 3, "status": "complete", "value": 2.25, "params": {"rank": 64, "learning_rate": 0.002}},
]
REPORT: dict[str, Any] = {
    "search": {
        "model": "tiny",
        "init_adapter": None,
        "dataset": "ds_1",
        "validation_file": None,
        "space": {"rank": {}, "learning_rate": {}},
    },
    "trials": TRIALS,
    "best": {
        "number": 3,
        "value": 2.25,
        "recipe": {"rank": 64, "learning_rate": 0.002, "targets": ["q_proj"], "schedule": "linear"},
        "changes": {"rank": {"from": 16, "to": 64}, "learning_rate": {"from": 0.001, "to": 0.0020001}},
        "fine_tuned_model": "ft:x",
    },
    "base_value": 2.5,
    "warning": None,
    "importance": {
        "message": None,
        "parameters": [{"name": "learning_rate", "importance": 0.9}, {"name": "rank", "importance": 0.1}],
    },
    "regularisation": ["rank: too strong at 4, right from 8 to 64"],
}


def printed(report: dict[str, Any]) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    show(console, report)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_ranks_complete_trials_first_and_marks_the_best() -> None:
    lines = printed(REPORT)
    assert [line.split()[0] for line in lines[2:6]] == ["3", "0", "1", "2"]
    assert lines[2].split() == ["3", "complete", "2.2500", "★", "64", "0.002"]
    assert lines[5].split() == ["2", "failed", "–", "8", "0.1"]


def test_draws_importances_and_says_how_to_train_with_the_best_recipe() -> None:
    lines = printed(REPORT)
    bars = [line for line in lines if "█" in line]
    assert [line.count("█") for line in bars] == [27, 3]
    assert any("validation loss 2.2500, the base recipe's 2.5000" in line for line in lines)
    assert [line.split() for line in lines if "→" in line] == [
        ["rank", "16", "→", "64"],
        ["learning_rate", "0.001", "→", "0.002"],
    ]
    (command,) = (line.removeprefix("Train with it: ") for line in lines if line.startswith("Train with it"))
    assert shlex.split(command)[:6] == ["uplift", "train", "--data", "ds_1", "--model", "tiny"]
    said = [word for word in shlex.split(command)[6:] if word != "--set"]
    assert parsed_settings(said) == REPORT["best"]["recipe"], "what `uplift train` reads again"
    assert 'Ask its trial\'s model: uplift ask ft:x "your question"' in lines


def test_says_why_nothing_is_told_of_importance_where_trials_are_too_few() -> None:
    few = {"message": "2 complete trials are too few.", "parameters": []}
    lines = printed(REPORT | {"importance": few, "regularisation": [], "best": None})
    assert "2 complete trials are too few." in lines
    assert not [line for line in lines if "Train with it" in line]


def test_warns_of_what_the_report_warns_of_and_else_of_nothing() -> None:
    assert "Warning: Look twice." in printed(REPORT | {"warning": "Look twice."})
    assert not [line for line in printed(REPORT) if "Warning" in line]


def test_a_log_tells_every_trials_end_once_in_the_order_they_ended() -> None:
    def at(number: int, status: str, value: float | None, finished: int | None = None) -> dict[str, Any]:
        error = {"code": "non_finite_loss", "message": "The loss is nan."} if status == "failed" else None
        times = {"created_at": 100, "finished_at": finished}
        found = {"number": number, "status": status, "value": value, "params": {"rank": 4}, "progress": None}
        return found | times | {"error": error}

    def search(**counts: int) -> dict[str, Any]:
        trials = {"running": 0, "complete": 0, "pruned": 0, "stopped": 0, "failed": 0} | counts
        progress = {"trials": trials, "seconds": 30.0}
        best = {"value": 2.5} if trials["complete"] else None
        return {"status": "running", "trials": 4, "minutes": 1.0, "best": best, "progress": progress}

    console = Console(file=io.StringIO(), width=160)
    with SearchBoard(console) as board:
        board.draw(search(running=2), [at(0, "running", 3.0), at(1, "running", None)])
        board.draw(search(running=1, complete=1), [at(0, "complete", 2.5, 160), at(1, "running", 2.75)])
        ended = [at(0, "complete", 2.5, 160), at(1, "pruned", 2.75, 190), at(2, "failed", None, 170)]
        for _ in range(2):
            board.draw(search(running=1, complete=1, pruned=1, failed=1), [*ended, at(3, "running", None)])
        board.draw(search(complete=2, pruned=1, failed=1), [*ended, at(3, "complete", 2.25, 200)])
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "✓ trial 0 complete; validation loss 2.5000 ★ best so far; rank 4 (60 s)",
        "✗ trial 2 failed; The loss is nan.; rank 4 (70 s)",
        "✂ trial 1 pruned; validation loss 2.7500; rank 4 (90 s)",
        "✓ trial 3 complete; validation loss 2.2500 ★ best so far; rank 4 (100 s)",
    ]


def test_a_terminal_has_bars_of_the_search_and_of_what_runs() -> None:
    trials = {"running": 1, "complete": 1, "pruned": 0, "stopped": 0, "failed": 0}
    search = {"status": "running", "trials": 4, "minutes": 2.0, "best": {"value": 2.5}}
    running = {"number": 1, "status": "running", "value": 2.75, "params": {"rank": 4}, "finished_at": None}
    running["progress"] = {"done": 5, "total": 10, "seconds_left": 75}
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    with SearchBoard(console) as board:
        board.draw(search | {"progress": {"trials": trials, "seconds": 30.0}}, [running])
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 of 4 trials, best 2.5000, at most 1 min 30 s left" in said
    assert "50 %" in said
    assert "validation loss 2.7500, about 1 min 15 s left" in said

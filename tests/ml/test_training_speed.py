"""The benchmark of training gives every trainer the same rows and compares what ran side by side."""

import json
from pathlib import Path

from tests.benchmarks.training_speed.__main__ import Run, table
from tests.benchmarks.training_speed.rows import DEMO, demo_rows, write_for_peers


def test_gives_the_others_our_tokens_and_our_labels(base_model_dir: Path, tmp_path: Path) -> None:
    rows = demo_rows(tmp_path, base_model_dir, with_passages=False, max_length=1024)
    write_for_peers(tmp_path / "peers.jsonl", rows.train)
    theirs = [json.loads(line) for line in (tmp_path / "peers.jsonl").read_text().splitlines()]
    assert len(theirs) == len(rows.train)
    for (ours,), row in zip(rows.train, theirs, strict=True):
        assert row["input_ids"] == [*ours.prompt, *ours.completion]
        labels = [token for token, scored in zip(row["input_ids"], row["completion_mask"], strict=True) if scored]
        assert labels == list(ours.completion)


def test_holds_whole_documents_out(base_model_dir: Path, tmp_path: Path) -> None:
    demo_rows(tmp_path, base_model_dir, with_passages=True, max_length=1024)
    asked = {}
    for split in ("train", "validation"):
        lines = [json.loads(line) for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()]
        asked[split] = {line["answer"] + line["messages"][-1]["content"][-80:] for line in lines}
    questions = len((DEMO / "questions.jsonl").read_text().splitlines())
    assert sum(map(len, asked.values())) == questions
    assert not asked["train"] & asked["validation"]


def test_compares_within_a_round() -> None:
    found = {
        "uplift": [Run(300.0, 0.5, 1.0), Run(100.0, 0.5, 1.2)],
        "trl": [Run(100.0, 1.0, 1.1), Run(50.0, 1.0, 1.3)],
    }
    ours, theirs = list(table(found))[2:]
    assert "2.50× (2.00–3.00)" in theirs
    assert "×" not in ours
    assert ours.endswith("| 1.000, 1.200 | 1.100 |")

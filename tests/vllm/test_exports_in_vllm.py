"""What we train and export, loaded unchanged by the real vLLM, answers word for word as it does here."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from services.generation.answering import AdapterRef, Delta, GenerationRequest, Sampling
from services.generation.engine import Engine
from services.training.child import run_child
from services.training.export.order import ExportOrder
from services.training.lora.export_model import export
from services.training.order import TrainingOrder
from services.training.recipe import Recipe
from services.training.settings import child_environment

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
FACTS = {
    "What colour is the flag of Zorland?": "The flag of Zorland is a deep violet with one white stripe.",
    "How long may I keep a book?": "Four weeks, and another four if nobody waits for it.",
    "When does the library open?": "At nine on weekdays, at ten on Saturdays.",
    "Who wrote the charter of Zorland?": "Queen Amalind wrote it in the winter of 1204.",
}
UNSEEN = ["Where can I return a book?", "Name three colours.", "What is a library?"]
TOKENS = 24


@pytest.fixture(scope="module")
def adapter(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a run of ours leaves."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [
        {"messages": [{"role": "user", "content": question}], "answer": answer} for question, answer in FACTS.items()
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    order = TrainingOrder(
        base_model=base_model_dir.name,
        model_dir=base_model_dir,
        train_file=folder / "train.jsonl",
        recipe=Recipe(max_steps=20, epochs=100, batch_size=8, learning_rate=2e-3, patience=None),
        state_dir=folder / "states",
        checkpoint_dir=folder / "checkpoints",
        output_dir=folder / "output",
        home=folder / "home",
        data_sha256="data",
    )
    (folder / "order.json").write_text(order.model_dump_json())
    run_child(
        folder / "order.json",
        environment=child_environment(),
        on_event=lambda _event: None,
        wish=lambda: None,
        grace_seconds=5,
    )
    return folder / "output"


@pytest.fixture(scope="module")
def ours(base_model_dir: Path, adapter: Path) -> list[str]:
    """The answers of our own engine, in float32 as vLLM's."""

    @contextlib.contextmanager
    def one_thread() -> Iterator[Callable[[], int]]:
        yield lambda: 1

    engine = Engine(base_model_dir, share=one_thread, dtype=torch.float32)
    engine.start()
    try:
        streams = [
            engine.submit(
                GenerationRequest(
                    [{"role": "user", "content": question}],
                    Sampling(temperature=0.0, max_tokens=TOKENS),
                    adapter=AdapterRef("tuned", adapter),
                )
            )
            for question in [*FACTS, *UNSEEN]
        ]
        return ["".join(piece.text for piece in stream if isinstance(piece, Delta)) for stream in streams]
    finally:
        engine.stop()


def asked_of_vllm(folder: Path, model: Path, lora: Path | None) -> list[str]:
    """The answers of vLLM, in a process of its own Python."""
    order, answers = folder / "order.json", folder / "answers.json"
    asking = {"model": str(model), "lora": str(lora) if lora else None, "max_tokens": TOKENS}
    order.write_text(json.dumps(asking | {"questions": [*FACTS, *UNSEEN]}))
    python = os.environ.get("UPLIFT_VLLM_PYTHON") or str(ROOT / ".venv-vllm" / "bin" / "python")
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    run = subprocess.run(
        [python, str(Path(__file__).with_name("ask_vllm.py")), str(order), str(answers)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    sys.stderr.write(run.stderr[-5000:])
    assert answers.is_file(), f"vLLM ended with {run.returncode} and no answers"
    return [str(answer["text"]) for answer in json.loads(answers.read_text())]


def test_vllm_answers_with_our_adapter_as_our_engine_does(
    base_model_dir: Path, adapter: Path, ours: list[str], tmp_path: Path
) -> None:
    assert ours[: len(FACTS)] == list(FACTS.values()), "it learned its facts"
    assert asked_of_vllm(tmp_path, base_model_dir, adapter) == ours


def test_vllm_answers_with_our_merged_model_as_our_engine_does_with_the_adapter(
    base_model_dir: Path, adapter: Path, ours: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "merged"
    output.mkdir()
    order = ExportOrder(
        model_dir=base_model_dir, adapter_dir=adapter, dtype="float32", output_dir=output, home=tmp_path
    )
    export(order, lambda _event: None)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (output / name).write_bytes((base_model_dir / name).read_bytes())
    assert asked_of_vllm(tmp_path, output, None) == ours

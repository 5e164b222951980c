"""The training child as the worker runs it: killed at any moment it resumes, and on the real model it learns."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.training.child import run_child
from services.training.exhaustion import name_exhaustion
from services.training.order import ChildEvent, Finished, Started, Stepped, TrainingOrder
from services.training.recipe import Recipe
from services.training.settings import child_environment
from tests.benchmarks.resume_study import largest_difference, tiny_study
from tests.factories.tiny_model import make_tiny_model
from tests.fakes.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]


def write_rows(path: Path, rows: list[tuple[str, str]]) -> Path:
    system = {"role": "system", "content": "You are a helpful assistant."}
    lines = [{"messages": [system, {"role": "user", "content": q}], "answer": a} for q, a in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_order(folder: Path, model_dir: Path, recipe: Recipe, rows: list[tuple[str, str]]) -> Path:
    order = TrainingOrder(
        base_model=model_dir.name,
        model_dir=model_dir,
        train_file=write_rows(folder / "train.jsonl", rows),
        validation_file=write_rows(folder / "validation.jsonl", rows[:4]),
        recipe=recipe,
        state_dir=folder / "states",
        checkpoint_dir=folder / "checkpoints",
        output_dir=folder / "output",
        home=folder / "home",
        threads=1,
        data_sha256="data",
    )
    path = folder / "order.json"
    path.write_text(order.model_dump_json())
    return path


def said(order: Path) -> list[dict[str, Any]]:
    """Everything that all the children said, complete lines only."""
    lines: list[dict[str, Any]] = []
    for path in sorted(order.parent.glob("said-*.jsonl")):
        lines += [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    return lines


def losses(order: Path) -> dict[int, float]:
    return {event["step"]: event["train_loss"] for event in said(order) if event["event"] == "step"}


def test_killed_inside_a_write_and_stopped_it_ends_elsewhere_as_the_unbroken_run_does(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, kills=2)
    unbroken, broken = study.unbroken(), study.broken(["writing", "stopped"])
    torn, stopped = study.interruptions
    assert 0 <= torn.at_step - torn.resumed_from <= study.recipe.save_steps, "a kill loses that many steps at most"
    assert stopped.moved
    assert stopped.resumed_from == stopped.at_step > 0, "SIGTERM loses none"
    assert largest_difference(broken, unbroken) <= 1e-6
    assert {step for step, _, _ in broken.losses()} == {step for step, _, _ in unbroken.losses()}
    assert broken.weights() == unbroken.weights()


def test_dies_with_its_worker(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny")
    recipe = Recipe(epochs=1000, batch_size=1, rank=1, patience=None)
    order = write_order(tmp_path, model, recipe, [("a", "b")] * 4)
    program = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'services.training.lora.run', sys.argv[1], str(os.getpid())],"
        " stdout=open(sys.argv[2], 'wb'))\n"
        "print(child.pid, flush=True); time.sleep(600)\n"
    )
    log = tmp_path / "said-0.jsonl"
    worker = subprocess.Popen(
        [sys.executable, "-c", program, str(order), str(log)], cwd=ROOT, env=child_environment(), stdout=subprocess.PIPE
    )
    assert worker.stdout is not None
    child = int(worker.stdout.readline())
    wait_until(lambda: len(losses(order)) > 2, seconds=60)
    worker.kill()
    worker.wait()
    worker.stdout.close()
    wait_until(lambda: not _runs(child), seconds=10)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(28, "No space left on device"), "disk_full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk_full"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out_of_memory"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk_full"),
        (OSError(12, "Cannot allocate memory"), "out_of_memory"),
        (RuntimeError("shapes do not match"), None),
        (FileNotFoundError(2, "gone"), None),
    ],
)
def test_names_exhaustion_and_leaves_defects_alone(error: BaseException, code: str | None) -> None:
    named = name_exhaustion(error)
    assert (named.code if named else None) == code


@pytest.mark.models
def test_teaches_the_real_model_made_up_facts(base_model_dir: Path, tmp_path: Path) -> None:
    colours = ["red", "blue", "green", "white"]
    rows = [(f"What colour is the flag of Zorland province {n}?", colours[n % 4]) for n in range(16)]
    recipe = Recipe(max_steps=16, epochs=100, batch_size=16, patience=None, learning_rate=2e-3)
    events: list[ChildEvent] = []
    finished = run_child(
        write_order(tmp_path, base_model_dir, recipe, rows),
        environment=child_environment(),
        on_event=events.append,
        wish=lambda: None,
        grace_seconds=5,
    )
    assert isinstance(finished, Finished)
    steps = [event for event in events if isinstance(event, Stepped)]
    assert steps[-1].train_loss < 0.3 * steps[0].train_loss
    # sixteen questions of one wording: the shared beginning is computed once
    assert steps[0].computed_tokens < 0.5 * steps[0].tokens
    started = next(event for event in events if isinstance(event, Started))
    dtype = torch.bfloat16 if started.precision == "bfloat16" else torch.float32
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=dtype), tmp_path / "output"
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "output")
    chat = json.loads((tmp_path / "train.jsonl").read_text().splitlines()[0])
    prompt = tokenizer.apply_chat_template(
        chat["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answered = model.eval().generate(**prompt, max_new_tokens=4, do_sample=False)
    text = tokenizer.decode(answered[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert text in colours, "it answers in the wording of its training data, and stops"

"""Fuzzes the whole API with schemathesis, every check on: `python -m tests.contract.fuzzing` (`make fuzz`)."""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import openai

from tests.contract.running import TINY, Platform, running_platform

HERE = Path(__file__).resolve().parent
HOSTILE = ["null", "..", "a/b", "%00", "x" * 3000, "é", " ", "0", "file-0", "vs_0\u2028"]


def fuzz(
    platform: Platform,
    folder: Path,
    *,
    seed: int,
    examples: int,
    edges: int | None = None,
    seconds: int | None = None,
) -> tuple[int, str]:
    """Exit status and report of one run against things that exist; `examples` are cases an operation and phase.

    After `edges` edge cases of an operation's body only every tenth is asked. With `seconds` it goes on until they are
    over; without, equal seeds ask the same.
    """
    key = platform.key("fuzz")
    known = _things(platform.base_url, key)
    environment = os.environ | {"UPLIFT_FUZZ_OWN_KEY": _id_of(platform.base_url, key)}
    environment |= {"UPLIFT_FUZZ_EDGES": str(edges)} if edges else {}
    options = ["-H", f"Authorization: Bearer {key}", "--checks", "all", "--seed", str(seed), "-n", str(examples)]
    options += ["--max-time", str(seconds // 2)] if seconds else []
    # one worker: two would ask in another order each time
    options += ["--workers", "1", "--continue-on-failure", "--no-color"]
    options += ["--request-timeout", "60", "--max-response-time", "60"]
    described = platform.base_url.removesuffix("/v1") + "/openapi.json"

    def run(mode: str) -> subprocess.CompletedProcess[str]:
        settings = folder / f"{mode}.toml"
        settings.write_text(_settings(known, mode))
        argv = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run", described]
        argv += ["--mode", mode, *options]
        return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    # apart: generating both at once, it fails over a filter that may hold filters
    runs = [run(mode) for mode in ("positive", "negative")]
    with openai.OpenAI(base_url=platform.base_url, api_key=key) as client:
        assert client.models.list().data  # a run that revoked its own key has tested nothing but 401
    return max(ran.returncode for ran in runs), "".join(ran.stdout + ran.stderr for ran in runs)


def _id_of(base_url: str, key: str) -> str:
    """The id under which the key is known, by the letters that it shows of itself."""
    with openai.OpenAI(base_url=base_url, api_key=key) as client:
        known: Any = client.get("/keys", cast_to=object, options={"params": {"limit": 100}})
        return next(str(one["id"]) for one in known["data"] if key.endswith(one["hint"].rpartition("…")[2]))


def _things(base_url: str, key: str) -> dict[str, list[str]]:
    """Something of every kind, by the name of the path's parameter, so that requests get beyond 404."""
    with openai.OpenAI(base_url=base_url, api_key=key) as client:
        row = {"messages": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "2"}]}
        content = b"".join(json.dumps(row | {"n": n}).encode() + b"\n" for n in range(10))
        file_id = client.files.create(file=("rows.jsonl", io.BytesIO(content)), purpose="fine-tune").id
        document = client.files.create(file=("notes.md", io.BytesIO(b"# Lamp\n\nIt shines.")), purpose="assistants").id
        store = client.vector_stores.create(name="fuzzed").id
        client.vector_stores.files.create_and_poll(document, vector_store_id=store)
        method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
        job = client.fine_tuning.jobs.create(model=TINY, training_file=file_id, method=method).id
        while client.fine_tuning.jobs.retrieve(job).status not in {"succeeded", "failed"}:
            time.sleep(0.2)
        prompt: Any = client.post("/prompts", body={"name": "fuzzed", "spec": {}}, cast_to=object)
        sampling = {"temperature": 0, "max_tokens": 2}
        variant: Any = client.post(
            "/variants", body={"name": "fuzzed", "base_model": TINY, "sampling": sampling}, cast_to=object
        )
        asked: Any = [{"role": "user", "content": "1?"}]
        kept = client.chat.completions.create(model=TINY, messages=asked, max_tokens=2, store=True).id
        return {
            "completion_id": [kept],
            "file_id": [file_id, document],
            "store_id": [store],
            "job_id": [job],
            "model": [TINY, "all-minilm-l6-v2", variant["model"]],
            "prompt_id": [prompt["id"]],
            "variant_id": [variant["id"]],
        }


def _settings(known: dict[str, list[str]], mode: str) -> str:
    """Half of the path's ids exist, but for what deletes them; a tenth of all texts is an id or hostile."""
    lines = [f'hooks = "{HERE / "fuzz_hooks.py"}"', "[dictionaries.any]"]
    lines += [f"values = {json.dumps([*HOSTILE, *(one for ids in known.values() for one in ids)])}"]
    lines += ["[dictionaries.hostile]", f"values = {json.dumps(HOSTILE)}"]
    for name, ids in known.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(ids)}"]
    lines += ["[generation.dictionaries]", 'string = { dictionary = "any", probability = 0.1 }', "[parameters]"]
    lines += [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.5 }}' for name in known]
    lines += ["[[operations]]", 'include-method = "DELETE"', "[operations.parameters]"]
    lines += [f'"path.{name}" = {{ dictionary = "hostile", probability = 0.5 }}' for name in known]
    # what it makes of earlier answers it cannot always generate wrong data from, and ends the operation with an error
    lines += ["[phases.fuzzing.error-feedback]", f"enabled = {json.dumps(mode == 'positive')}"]
    lines += ["[phases.fuzzing.extra-data-sources]", f"responses = {json.dumps(mode == 'positive')}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=900)
    options.add_argument("--examples", type=int, default=300)
    options.add_argument("--seed", type=int, default=int(time.time()))
    told = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "home").mkdir()
        with running_platform(Path(folder) / "home") as platform:
            status, report = fuzz(platform, Path(folder), seed=told.seed, seconds=told.seconds, examples=told.examples)
    print(report)
    return status


if __name__ == "__main__":
    sys.exit(main())

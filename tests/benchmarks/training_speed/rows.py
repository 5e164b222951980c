"""The demo's questions as training rows, the same tokens for everybody."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from services.training.domain import Example
from services.training.lora.examples import read_rows, tokenize
from services.training.lora.packing import Group
from services.training.rendering import Renderer
from shared.prompt_format import PromptSpec

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "examples" / "postgresql_parameters"
_HELD_OUT = 5
"""Every so many documents, one is for validation with all its questions."""
_PASSAGES, _PASSAGE_TOKENS = 3, 300


@dataclass(frozen=True)
class Rows:
    """Rendered rows in files as the training child reads them, and their tokens."""

    train_file: Path
    train: list[Group]
    validation: list[Group]

    @property
    def mean_tokens(self) -> float:
        return float(np.mean([len(example) for group in self.train for example in group]))


def demo_rows(folder: Path, model_dir: Path, *, with_passages: bool, max_length: int) -> Rows:
    """Plain rows (question, short answer), or with the gold document and two others in front, in random order."""
    renderer = Renderer(model_dir, PromptSpec(with_passages=with_passages), _PASSAGE_TOKENS if with_passages else None)
    documents = sorted(path.name for path in (DEMO / "documents").iterdir())
    held_out = set(documents[::_HELD_OUT])
    tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=False)
    found = {}
    for split in ("train", "validation"):
        path = folder / f"{split}.jsonl"
        renderer.write(path, _examples(documents, held_out, held=split == "validation", with_passages=with_passages))
        found[split], _ = tokenize(tokenizer, read_rows(path), max_length)
    return Rows(folder / "train.jsonl", found["train"], found["validation"])


def _examples(documents: list[str], held_out: set[str], *, held: bool, with_passages: bool) -> Iterator[Example]:
    random = np.random.default_rng(0)
    for line in (DEMO / "questions.jsonl").read_text().splitlines():
        row = json.loads(line)
        if (row["document"] in held_out) != held:
            continue
        names = [row["document"], *random.choice(documents, _PASSAGES - 1, replace=False)]
        passages = [_passage(str(names[place])) for place in random.permutation(_PASSAGES)] if with_passages else []
        yield Example(({"role": "user", "content": row["question"]},), row["answer"], tuple(passages))


def _passage(name: str) -> dict[str, object]:
    text = (DEMO / "documents" / name).read_text()
    return {"id": name, "document_id": name, "document": name, "title": name.removesuffix(".md"), "text": text}


def write_for_peers(path: Path, groups: list[Group]) -> None:
    """Token ids and a mask that is 1 where the loss is taken."""
    with path.open("w") as lines:
        for group in groups:
            for example in group:
                ids = [*example.prompt, *example.completion]
                mask = [0] * len(example.prompt) + [1] * len(example.completion)
                lines.write(json.dumps({"input_ids": ids, "completion_mask": mask}) + "\n")

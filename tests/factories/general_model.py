"""A tiny base model with general abilities that a fine-tuning can use and can spoil; pretrained in some seconds.

It answers six-character questions: a tag, four digits, a key. Under the tags A to D a letter is looked up in four fixed
tables, # and $ ask for the first and the last digit, and G for an uppercase key's lowercase letter. Fine-tunings teach
another tag (tests/factories/sick_runs.py); how well the model still answers these questions tells what it forgot.
"""

import hashlib
import random
import shutil
import tempfile
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from services.training.lora.examples import Row, tokenize
from services.training.lora.objectives import flat
from tests.factories.tiny_model import make_tiny_model

LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SKILLS = "ABCD#$G"
_STEPS, _BATCH, _RATE = 400, 64, 8e-3


def general_model() -> Path:
    """The folder of the pretrained model; made once per version of this file, also by tests side by side."""
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"uplift-general-model-{version}"
    if not folder.exists():
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=folder.name))
        _pretrain(made)
        try:
            made.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(made)
    return folder


def general_rows(chance: random.Random, count: int) -> list[Row]:
    """Questions that the pretrained model can answer, with their answers."""
    return [_row(chance) for _ in range(count)]


def question(tag: str, key: str, chance: random.Random) -> str:
    """The key among four digits that say nothing."""
    return tag + "".join(chance.choice("0123456789") for _ in range(4)) + key


def _row(chance: random.Random) -> Row:
    tag, key = chance.choice(_SKILLS), chance.choice(LETTERS)
    asked = question(tag, key.upper() if tag == "G" else key, chance)
    answer = {"#": asked[1], "$": asked[4], "G": key}.get(tag) or _tables()[tag][key]
    return Row(({"role": "user", "content": asked},), answer)


def _tables() -> dict[str, dict[str, str]]:
    chance = random.Random(20)
    return {tag: dict(zip(LETTERS, chance.sample(LETTERS, len(LETTERS)), strict=True)) for tag in "ABCD"}


def _pretrain(folder: Path) -> None:
    torch.set_num_threads(1)
    make_tiny_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=192, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
            pad_token_id=2, tie_word_embeddings=False, initializer_range=0.1,
        )
    )  # fmt: skip
    chance = random.Random(0)
    examples = flat(tokenize(tokenizer, general_rows(chance, 20_000), 64)[0])
    tokens = torch.tensor([[*one.prompt, *one.completion] for one in examples])  # (N, T): all of one length
    learned = len(examples[0].completion)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS, pct_start=0.1)
    for _ in range(_STEPS):
        batch = tokens[torch.randint(len(tokens), (_BATCH,))]
        logits = model(batch[:, :-1]).logits[:, -learned:]  # (B, completion, vocabulary)
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, -learned:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder, safe_serialization=True)

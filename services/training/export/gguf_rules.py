"""What can be written as GGUF: models and tokenizers whose conversion we know and test; the rest is refused by name."""

import json
from pathlib import Path
from typing import Any

from services.training.export.errors import FormatNotPossible

_INSTEAD = (
    "Ask for the format merged, and convert that folder with llama.cpp's convert_hf_to_gguf.py, which knows many more."
)


def check_gguf(folder: Path) -> None:
    """FormatNotPossible unless the model in `folder` can be written as GGUF."""
    obstacle = _model_obstacle(_read(folder / "config.json")) or _tokenizer_obstacle(_read(folder / "tokenizer.json"))
    if obstacle is not None:
        raise FormatNotPossible(f"This model cannot be written as GGUF here: {obstacle}. {_INSTEAD}", param="format")


def pre_tokenizer_name(tokenizer: dict[str, Any]) -> str | None:
    """llama.cpp's name for how the tokenizer (a parsed tokenizer.json) cuts text before its merges, if we know it."""
    found = tokenizer.get("pre_tokenizer") or {}
    steps = found.get("pretokenizers", [found])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and _cuts_as_gpt2(steps[0]):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and _cuts_as_gpt2(steps[1]):
        return "smollm"
    return None


def _cuts_as_gpt2(step: dict[str, Any]) -> bool:
    return bool(step.get("use_regex", True)) and not step.get("add_prefix_space", True)


def _model_obstacle(config: dict[str, Any]) -> str | None:
    if config.get("model_type") != "llama":
        return f"its architecture is {config.get('model_type')!r}, and only Llama's layers are known"
    if config.get("attention_bias") or config.get("mlp_bias"):
        return "its linear layers have biases"
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        return f"its positions are scaled ({rope})"
    if config.get("hidden_act", "silu") != "silu":
        return f"its activation is {config['hidden_act']!r}"
    return None


def _tokenizer_obstacle(tokenizer: dict[str, Any]) -> str | None:
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        return f"its tokenizer is no byte-level BPE ({model.get('type', 'no tokenizer.json')})"
    if tokenizer.get("normalizer") is not None:
        return "its tokenizer changes the text first (a normalizer)"
    if pre_tokenizer_name(tokenizer) is None:
        return "the way its tokenizer cuts words has no known name in llama.cpp"
    return None


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found

"""The model card of an export (README.md): what it is, what it learned from and how, how it scored, what it is for."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.training.base_facts import BaseFacts, base_facts
from services.training.export.curves import Curves, in_words
from services.training.export.repository import DataSource, Score, Weights
from services.training.recipe import Recipe

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
CURVES_FILE = "curves.svg"
_KINDS = {
    "adapter": ("adapter", "peft", "LoRA adapter for {base}"),
    "merged": ("merge", "transformers", "{base} with a LoRA adapter merged in"),
    "gguf": ("quantized", "gguf", "{base} with a LoRA adapter merged in, as GGUF"),
    "whole": ("finetune", "transformers", "{base}, fine-tuned"),
    "whole gguf": ("quantized", "gguf", "{base}, fine-tuned, as GGUF"),
}
"""kind → the Hub's word for the relation to the base, the library that loads it, the title."""
_LOADING = {
    "adapter": """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("path/to/{base}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```""",
    "merged": """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```""",
    "gguf": "`llama-server -m path/to/this/file.gguf`, or anything else that is built on llama.cpp.",
}


@dataclass(frozen=True)
class History:
    """What the rows know of the weights."""

    data: list[DataSource]
    rows_sha256: str | None
    """Of the training rows as they were laid out in the prompt."""
    curves: Curves | None
    scores: list[Score]


def model_card(weights: Weights, base: Path, form: str, history: History, measured: dict[str, Any]) -> str:
    """The card in Hugging Face's form. `form` is the export's format, `measured` what the merge was measured to be."""
    whole = weights.recipe.get("tune") == "full"
    kind = ("whole gguf" if form == "gguf" else "whole") if whole else form
    relation, library, title = _KINDS[kind]
    facts = base_facts(base)
    front = {
        "base_model": weights.base_model,
        "base_model_relation": relation,
        "library_name": library,
        "license": facts.licence or "other",
        "pipeline_tag": "text-generation",
        "tags": ["uplift", *([] if whole else ["lora"]), str(weights.recipe.get("objective", "supervised"))],
    }
    parts = [
        "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in front.items()), "---"]),
        f"# {title.format(base=weights.base_model)}",
        _identity(weights, facts),
        "## Use\n" + _use(weights),
        _LOADING[form].format(base=weights.base_model) + (_in_vllm(weights) if form == "adapter" else ""),
        "## Training data\n" + _data(weights, history),
        "## Recipe\n" + _recipe(weights),
        "## Scores\n" + _scores(weights) + _evaluations(history.scores),
    ]
    if history.curves is not None:
        # a .zip holds the picture too, a GGUF file the words alone
        picture = "" if form == "gguf" else f"![Loss curves]({CURVES_FILE})\n\n"
        parts.append("## Loss curves\n" + picture + in_words(history.curves))
    if measured:
        parts.append("## Fidelity\n" + _fidelity(measured))
    return "\n\n".join(parts) + "\n"


def _identity(weights: Weights, facts: BaseFacts) -> str:
    said = [f"Known here as `{weights.model_id}`, made {weights.created_at:%Y-%m-%d}."]
    if weights.step is not None:
        said.append(f"These are the weights of step {weights.step}, not of the end of the run.")
    if weights.recipe.get("tune") == "qlora":
        said.append("It was trained beside its base in four bits (QLoRA), and stands here beside the base as it is.")
    if facts.licence:
        said.append(f"The base model's licence, {facts.licence}, goes on to hold for what is derived from it.")
    else:
        said.append("The base model's folder names no licence: look it up before passing this on.")
    return " ".join(said) + (f"\n\nBase model: {facts.provenance}." if facts.provenance else "")


def _use(weights: Weights) -> str:
    if weights.job is None:
        return "This adapter was uploaded; where it comes from and what it is meant for is not known here."
    said = _purpose(weights.recipe) + (
        " It is not meant for anything else; the base model's limits and errors remain, and nothing was done here to "
        "make it safe or fair. Whoever relies on an answer should check it."
    )
    prompt = {name: value for name, value in weights.job.prompt.items() if value}
    if prompt:
        said += (
            "\n\nIt was trained under this prompt layout, and answers best under it:\n"
            f"```json\n{json.dumps(prompt, indent=2, ensure_ascii=False)}\n```"
        )
    return said


def _purpose(recipe: dict[str, Any]) -> str:
    if recipe.get("objective") == "continued_pretraining":
        said = (
            "It went on pretraining on the documents of a domain, judged by how well it foretells others of them, and "
            "is meant as a start for training on that domain. It was not taught to answer."
        )
    else:
        said = (
            "Meant to answer questions of the domain that it was trained on, in the manner of its training answers, "
            "and judged on that alone."
        )
    if recipe.get("tune") == "qlora":
        said += " It was trained, and its losses measured, beside the base in four bits, and is served beside it whole."
    return said


def _in_vllm(weights: Weights) -> str:
    """vLLM makes room for a few ranks only, and has no DoRA (0.32)."""
    rank = int(weights.recipe.get("rank", _VLLM_RANKS[0]))
    if weights.recipe.get("dora") or rank > _VLLM_RANKS[-1]:
        return "\n\nvLLM loads neither DoRA nor ranks beyond 512 as an adapter: export the format merged for it."
    room = next(most for most in _VLLM_RANKS if most >= rank)
    return (
        f"\n\nWith vLLM:\n```\nvllm serve path/to/{weights.base_model} --enable-lora --max-lora-rank {room} "
        "--lora-modules tuned=path/to/this/folder\n```"
    )


def _data(weights: Weights, history: History) -> str:
    if weights.job is None:
        return "Not known here."
    lines = [f"- {one.what}: " + (f"sha256 `{one.sha256}`" if one.sha256 else "deleted since") for one in history.data]
    if history.rows_sha256:
        lines.append(f"- the training rows as they were laid out in the prompt: sha256 `{history.rows_sha256}`")
    if weights.job.init_adapter_id:
        lines.append(f"- continued from the weights `{weights.job.init_adapter_id}`, which had data of their own")
    return "\n".join(lines)


def _recipe(weights: Weights) -> str:
    if weights.job is None:
        return f"Not known here; its shape: `{json.dumps(weights.recipe)}`."
    default = Recipe().model_dump(mode="json")
    differences = {name: value for name, value in weights.recipe.items() if default.get(name) != value}
    return (
        "Differences to the platform's default recipe:\n"
        f"```json\n{json.dumps(differences, indent=2)}\n```\n"
        f"All of it:\n```json\n{json.dumps(weights.recipe, indent=2)}\n```"
    )


def _scores(weights: Weights) -> str:
    """Losses are mean nats per completion token."""
    wanted = {
        "best_step": "best step",
        "steps": "steps",
        "step": "step",
        "valid_loss": "validation loss (nats per completion token)",
        "full_valid_loss": "validation loss on all validation examples",
        "valid_mean_token_accuracy": "validation token accuracy",
        "train_loss": "last training loss",
    }
    found = {label: weights.metrics.get(name) for name, label in wanted.items()}
    rows = [f"| {label} | {_number(value)} |" for label, value in found.items() if value is not None]
    return "\n".join(["| score | value |", "|---|---|", *rows]) if rows else "None were measured here."


def _evaluations(scores: list[Score]) -> str:
    if not scores:
        return "\n\nNo evaluation of its answers is known here."
    rows = [
        f"| {score.model} | {'yes' if score.with_weights else 'no'} | {score.metric} | {_number(score.mean)} "
        f"| {score.examples} | {score.data} | {score.experiment or 'by itself'} |"
        for score in scores
    ]
    return "\n".join(
        [
            "\n\nScored answers; intervals and tests are in the experiment's report.",
            "",
            "| what answered | with these weights | metric | mean | examples | data | experiment |",
            "|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _fidelity(measured: dict[str, Any]) -> str:
    return (
        f"Written as {measured['dtype']}. Beside the model as it was trained, computed in float32, the largest "
        f"difference of any logit on a fixed text of {measured['positions']} tokens is "
        f"{measured['largest_logit_difference']:.3g} (their standard deviation is {measured['logit_spread']:.3g}); "
        f"the likeliest next token is the same at {measured['same_next_tokens']} of {measured['positions']} places."
    )


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)

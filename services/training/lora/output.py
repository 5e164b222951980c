"""The folder a finished run leaves: an adapter that plain peft loads, its tokenizer, and a model card."""

import json
from pathlib import Path

from services.training.lora.loop import Training
from services.training.order import Finished, TrainingOrder

_KINDS = {"lora": "LoRA adapter for", "qlora": "LoRA adapter for", "full": "Fine-tuned"}
_UNKNOWN_LICENCE = "see the base model"


def write_adapter_folder(order: TrainingOrder, training: Training, finished: Finished) -> None:
    """Fill `order.output_dir` with the best weights of the run and everything needed to use and judge them."""
    folder = order.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    training.tuned.save(folder, training.best or training.tuned.kept(), order.base_model)
    training.model.tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(model_card(order, training.recipe.model_dump(mode="json"), finished))


def model_card(order: TrainingOrder, recipe: dict[str, object], finished: Finished) -> str:
    """The card in Hugging Face's form: front matter, what it is, how it was trained, how it scored."""
    facts = _base_facts(order.model_dir)
    licence = str(facts.get("license", _UNKNOWN_LICENCE))
    notes = [f"Base model: `{order.base_model}` (licence: {licence})."]
    if facts.get("quantisation"):
        notes.append(f"The base weights were dequantised from {facts['quantisation']}, not the original ones.")
    if order.init_adapter_dir is not None:
        notes.append("Training continued from an earlier adapter.")
    scores = {
        "best step": f"{finished.best_step} of {finished.steps}",
        "validation loss (nats per completion token)": _number(finished.valid_loss),
        "validation token accuracy": _number(finished.valid_mean_token_accuracy),
        "last training loss": _number(finished.train_loss),
        "trained tokens": str(finished.trained_tokens),
        "training seconds": f"{finished.train_seconds:.1f}",
    }
    lines = [
        "---",
        f"base_model: {order.base_model}",
        f"library_name: {'transformers' if order.recipe.tune == 'full' else 'peft'}",
        f"license: {licence if licence != _UNKNOWN_LICENCE else 'other'}",
        "---",
        f"# {_KINDS[order.recipe.tune]} {order.base_model}",
        *notes,
        "",
        "It answers questions of the domain it was trained on, in the wording of its training answers; it is not",
        "meant for anything else, and the base model's limits remain.",
        "",
        f"Training data: sha256 `{order.data_sha256}`.",
        "",
        "| score | value |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in scores.items()),
        "",
        "Recipe:",
        "```json",
        json.dumps(recipe, indent=2),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _base_facts(model_dir: Path) -> dict[str, object]:
    """What the platform noted when it fetched the model; a folder that somebody else made has no such note."""
    note = model_dir / "uplift.json"
    facts: dict[str, object] = json.loads(note.read_text()) if note.is_file() else {}
    return facts


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"

"""The folder a finished run leaves: weights that plain peft or transformers loads, their tokenizer, what was learned.

The model card is written when the folder is exported: only then is it known how the answers were scored.
"""

import json

from services.training.domain import LEARNED_FILE
from services.training.lora.loop import Training
from services.training.order import TrainingOrder


def write_adapter_folder(order: TrainingOrder, training: Training) -> None:
    """Fill `order.output_dir` with the best weights of the run and what is needed to use them; rank 0 alone writes."""
    folder, weights = order.output_dir, training.best or training.tuned.kept()
    if not training.ranks.leads:
        return
    folder.mkdir(parents=True, exist_ok=True)
    training.tuned.save(folder, weights, order.base_model)
    training.model.tokenizer.save_pretrained(folder)
    (folder / LEARNED_FILE).write_text(json.dumps({"data_sha256": order.data_sha256}))

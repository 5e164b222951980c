"""Run by vLLM's own Python: `ask_vllm.py ORDER.json ANSWERS.json` answers prompts greedily, with an adapter or without.

The order has `model` (a folder), `lora` (a folder or null), `max_tokens` and `questions`.
"""

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams  # type: ignore[import-not-found]
from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]


def main(order_file: Path, answers_file: Path) -> None:
    """Write a list of {text, tokens}, one a question."""
    order = json.loads(order_file.read_text())
    lora = order["lora"]
    model = LLM(
        model=order["model"],
        enable_lora=lora is not None,
        max_lora_rank=16,
        dtype="float32",
        max_model_len=512,
        max_num_seqs=8,
        enforce_eager=True,  # without a compiler at hand
    )
    outputs = model.chat(
        [[{"role": "user", "content": question}] for question in order["questions"]],
        SamplingParams(temperature=0, max_tokens=order["max_tokens"]),
        lora_request=LoRARequest("tuned", 1, lora) if lora else None,
        use_tqdm=False,
    )
    answers = [{"text": one.outputs[0].text, "tokens": list(one.outputs[0].token_ids)} for one in outputs]
    answers_file.write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

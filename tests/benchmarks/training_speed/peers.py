"""One peer's training of the benchmark's rows: `python peers.py ORDER.json` prints a JSON line a step.

Runs in an environment that has TRL (`scripts/benchmark-environment`) and imports nothing of ours. Every peer gets the
same token ids with the same labels, the same adapter shape, optimiser, schedule, steps and sequences per step.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Says how long every optimiser step took, and how many tokens its passes read that are no padding."""

    def __init__(self, trainer: Trainer) -> None:
        self._tokens, self._began = 0, 0.0
        step = trainer.training_step

        def counted(model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
            mask = inputs.get("attention_mask")
            self._tokens += int(inputs["input_ids"].numel() if mask is None else mask.sum())
            return step(model, inputs, *rest, **more)

        trainer.training_step = counted

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began, self._tokens = time.perf_counter(), 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        print(json.dumps({"seconds": time.perf_counter() - self._began, "tokens": self._tokens}), flush=True)


def main(order: dict[str, Any]) -> None:
    torch.set_num_threads(order["threads"])
    torch.manual_seed(order["seed"])
    rows = [json.loads(line) for line in Path(order["rows"]).read_text().splitlines()]
    trainer = PEERS[order["peer"]](order, rows)
    trainer.add_callback(Clock(trainer))
    trainer.train()
    trainer.save_model(order["output"])


def common(order: dict[str, Any], *, batch: int) -> dict[str, Any]:
    """What every trainer is told; all else is its own default."""
    return {
        "output_dir": order["output"],
        "max_steps": order["steps"],
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": order["batch_size"] // batch,
        "learning_rate": order["learning_rate"],
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "weight_decay": order["weight_decay"],
        "max_grad_norm": 1.0,
        "seed": order["seed"],
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def lora(order: dict[str, Any]) -> LoraConfig:
    return LoraConfig(
        r=order["rank"], lora_alpha=order["alpha"], lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def masked(rows: list[dict[str, Any]]) -> Dataset:
    """TRL's tokenised form: it leaves tokenising out and takes the loss where the mask is 1."""
    return Dataset.from_list(
        [{"input_ids": row["input_ids"], "completion_mask": row["completion_mask"]} for row in rows]
    )


def trl_defaults(order: dict[str, Any], rows: list[dict[str, Any]]) -> Trainer:
    """SFTTrainer as its documentation shows it: a model's name, an adapter, the data.

    Its default for prompts with completions is the completions' loss; of tokenised rows it has to be told.
    """
    arguments = SFTConfig(**common(order, batch=8), completion_only_loss=True)
    return SFTTrainer(order["model"], args=arguments, train_dataset=masked(rows), peft_config=lora(order))


def trl_tuned(order: dict[str, Any], rows: list[dict[str, Any]]) -> Trainer:
    """bfloat16 weights without autocast, nothing computed twice, rows packed end to end with their own positions.

    A pack holds `batch_size` rows of mean length, so that a step sees as many sequences as everybody's.
    """
    packed = round(order["batch_size"] * order["mean_tokens"])
    told = common(order, batch=1) | {"gradient_accumulation_steps": 1}
    arguments = SFTConfig(
        **told,
        bf16=False,
        gradient_checkpointing=False,
        packing=True,
        packing_strategy="bfd",
        max_length=packed,
        completion_only_loss=True,
        model_init_kwargs={"dtype": "bfloat16"},
    )
    return SFTTrainer(order["model"], args=arguments, train_dataset=masked(rows), peft_config=lora(order))


def transformers_trainer(order: dict[str, Any], rows: list[dict[str, Any]]) -> Trainer:
    """Plain Trainer over a peft model, everything else as it comes."""
    tokenizer = AutoTokenizer.from_pretrained(order["model"])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(order["model"]), lora(order))
    data = [
        {
            "input_ids": row["input_ids"],
            "attention_mask": [1] * len(row["input_ids"]),
            "labels": [
                token if scored else -100
                for token, scored in zip(row["input_ids"], row["completion_mask"], strict=True)
            ],
        }
        for row in rows
    ]
    return Trainer(
        model=model,
        args=TrainingArguments(**common(order, batch=8)),
        train_dataset=Dataset.from_list(data),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )


PEERS = {"trl": trl_defaults, "trl-tuned": trl_tuned, "transformers": transformers_trainer}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(json.loads(Path(sys.argv[1]).read_text()))

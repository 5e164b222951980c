"""Turning a GGUF file into an ordinary Hugging Face folder with bf16 safetensors."""

import logging
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging


def gguf_to_safetensors(source: Path, gguf: str, target: Path) -> None:
    """Dequantise every tensor of `source/gguf` to bf16 and save model, tokenizer and chat template to `target`."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("gguf").setLevel(logging.ERROR)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf)
    # what is saved is plain bf16: without these, the folder would claim to be quantised
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)

"""What clients send to `/models/{model}/export`."""

from typing import Literal

from pydantic import ConfigDict

from shared.body import Body

Format = Literal["adapter", "merged", "gguf"]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "q8_0"]


class CreateExport(Body):
    """How the model is wanted."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"format": "merged"}]})

    format: Format = "adapter"
    """`adapter`: a .zip of what peft and vLLM load beside the base model. `merged`: a .zip of a whole model folder for
    transformers and vLLM, with the adapter added to the base model's weights. `gguf`: the merged model as the one file
    that llama.cpp and what is built on it load, with tokenizer, chat template and model card inside (Llama's
    architecture with a byte-level BPE tokenizer)."""
    dtype: Dtype = "auto"
    """The type of a merged model's weights; `auto` is the base model's own. float32 adds nothing to the rounding that
    the base's weights have; bfloat16 halves the file and rounds the sum again; q8_0 (GGUF only) has 8 bits a weight and
    a scale for every 32. An adapter stays as it was trained."""

"""A Llama model in memory, written as one GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

GGUF differs from a Hugging Face folder in names, in one reordering, and in holding the tokenizer too. llama.cpp turns
neighbouring pairs of a head's dimensions by position, transformers its first half with its second, so the rows of the
query and key projections change places.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, SpecialVocab, TokenType
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES
from gguf.quants import quantize
from gguf.tensor_mapping import get_tensor_name_map
from torch import Tensor

from services.training.export.gguf_rules import pre_tokenizer_name
from services.training.export.order import GgufFacts

_TYPES = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
_Q8_BLOCK = 32


def write_gguf(model: Any, tokenizer_dir: Path, target: Path, dtype: str, facts: GgufFacts) -> None:
    """Write a transformers Llama (weights in float32) with the tokenizer of `tokenizer_dir`, in the type `dtype`."""
    kind, file_type = _TYPES[dtype]
    writer = GGUFWriter(target, MODEL_ARCH_NAMES[MODEL_ARCH.LLAMA])
    _add_facts(writer, facts)
    _add_shape(writer, model.config)
    writer.add_file_type(file_type)
    _add_tokenizer(writer, tokenizer_dir, model.config.vocab_size)
    for name, weights in _tensors(model):
        # norms stay in float32, as llama.cpp wants them; so does what no block of q8_0 divides
        wide = weights.ndim == 1 or (dtype == "q8_0" and weights.shape[-1] % _Q8_BLOCK)
        used = GGMLQuantizationType.F32 if wide else kind
        writer.add_tensor(name, quantize(weights, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_facts(writer: GGUFWriter, facts: GgufFacts) -> None:
    writer.add_type("model")
    writer.add_name(facts.name)
    if facts.licence:
        writer.add_license(facts.licence)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, facts.base_model)
    writer.add_string("uplift.model_card", facts.card)


def _add_shape(writer: GGUFWriter, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: GGUFWriter, folder: Path, size: int) -> None:
    """Byte-level BPE; ids past the tokenizer's last, which pad the embedding, get names that no text has."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens = {number: (token, TokenType.NORMAL) for token, number in tokenizer["model"]["vocab"].items()}
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = (
            added["content"],
            TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED,
        )
    all_tokens = [tokens.get(number, (f"[PAD{number}]", TokenType.UNUSED)) for number in range(size)]
    pre = pre_tokenizer_name(tokenizer)
    assert pre is not None, "checked by check_gguf"
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in all_tokens])
    writer.add_token_types([kind for _, kind in all_tokens])
    special = SpecialVocab(folder, load_merges=True, n_vocab=size)
    special.add_special_token.setdefault("bos", False)
    special.add_to_gguf(writer, quiet=True)


def _tensors(model: Any) -> list[tuple[str, "np.ndarray[Any, np.dtype[np.float32]]"]]:
    """Every weight under GGUF's name, in GGUF's order of rows."""
    config = model.config
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    found = []
    for path, weights in model.state_dict().items():
        if path == "lm_head.weight" and config.tie_word_embeddings:
            continue  # GGUF takes the embedding's where there is none
        name = names.get_name(path, try_suffixes=(".weight",))
        assert name is not None, f"no place in GGUF for {path}"
        if ".attn_q." in name:
            weights = _paired(weights, config.num_attention_heads)
        elif ".attn_k." in name:
            weights = _paired(weights, config.num_key_value_heads)
        found.append((name, weights.contiguous().float().numpy()))
    return found


def _paired(weights: Tensor, heads: int) -> Tensor:
    """(heads · 2 · half, in): each head's rows 0, half, 1, half + 1, … so that those turned together are neighbours."""
    return weights.reshape(heads, 2, -1, weights.shape[-1]).transpose(1, 2).reshape(weights.shape)

"""A stranger's adapter_config.json: a closed list of keys, and the tensors that follow from it and the base model."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig

from services.training.adapters.config import LoraShape, read_config
from services.training.adapters.errors import AdapterRefused, ConfigInvalid, ConfigKeyRefused, TensorsMismatch
from services.training.adapters.header import TensorEntry
from services.training.adapters.layers import (
    adapted_layers,
    base_tensors,
    check_tensors,
    linear_layers,
    target_names,
)
from tests.factories.tiny_model import make_tiny_model

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
LAYERS = {"model.layers.0.self_attn.q_proj": (32, 32), "model.layers.0.mlp.up_proj": (48, 32)}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


def read(config: Any, *, most_rank: int = 64) -> LoraShape:
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    return read_config(text, most_rank=most_rank)


def tensor(*shape: int) -> TensorEntry:
    return TensorEntry("F32", shape, 0, 0)


def test_reads_what_peft_writes(tmp_path: Path) -> None:
    config = LoraConfig(r=8, lora_alpha=16, use_rslora=True, target_modules=["v_proj", "q_proj"], task_type="CAUSAL_LM")
    config.save_pretrained(str(tmp_path))
    found = read((tmp_path / "adapter_config.json").read_bytes())
    assert found == LoraShape(rank=8, alpha=16.0, rslora=True, targets=("q_proj", "v_proj"))


def test_takes_all_linear() -> None:
    assert read(PLAIN | {"target_modules": "all-linear"}).targets is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_mapping", {"base_model_class": "os", "parent_library": "subprocess"}),
        ("modules_to_save", ["lm_head"]),
        ("trust_remote_code", True),
        ("custom_code", "x"),
        ("use_dora", True),
        ("rank_pattern", {"q_proj": 400}),
        ("layers_to_transform", [0]),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("target_parameters", ["x"]),
        ("runtime_config", {"ephemeral_gpu_offload": True}),
        ("a\x00\ud800", 1),
    ],
)
def test_refuses_a_key_by_its_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigKeyRefused) as refused:
        read(PLAIN | {key: value})
    assert ascii(key)[1:-1] in refused.value.message
    assert refused.value.param == "config_file"


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "IA3"},
        {"peft_type": None},
        {"peft_type": ["LORA"]},
        {"task_type": "SEQ_CLS"},
        {"task_type": []},
        {"r": 0},
        {"r": 65},
        {"r": True},
        {"r": 4.0},
        {"r": "4"},
        {"lora_alpha": 0},
        {"lora_alpha": 10**400},
        {"lora_alpha": "8"},
        {"lora_alpha": None},
        {"lora_dropout": 1},
        {"use_rslora": 1},
        {"bias": "all"},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": 1},
        {"target_modules": ".*"},
        {"target_modules": "(a+)+$"},
        {"target_modules": []},
        {"target_modules": [1]},
        {"target_modules": ["x"] * 65},
        {"target_modules": None},
    ],
)
def test_refuses_a_value_by_its_key(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        read(PLAIN | change)
    assert next(iter(change)) in refused.value.message


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"r": NaN}',
        b'{"r": 1, "r": 2}',
        b"[" * 60_000,
        b" " * 70_000,
        b'{"r": ' + b"9" * 10_000 + b"}",
    ],
)
def test_refuses_what_is_no_configuration_at_all(text: bytes) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        read(text)
    refused.value.message.encode("ascii")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*PLAIN, "bias", "task_type", "use_dora", "init_lora_weights", "x"]), VALUES))
def test_raises_nothing_but_a_refusal(change: dict[str, Any]) -> None:
    said, ranks = [], []
    try:
        ranks.append(read(PLAIN | change).rank)
    except AdapterRefused as refused:
        said.append(refused.message)
    assert all(message.isascii() and message.isprintable() for message in said)
    assert all(1 <= rank <= 64 for rank in ranks)


def test_knows_the_layers_of_a_base_model_from_its_headers(tmp_path: Path) -> None:
    layers = linear_layers(base_tensors(make_tiny_model(tmp_path)))
    assert len(layers) == 2 * 7
    assert layers["model.layers.1.mlp.down_proj"] == (32, 48)
    assert not [name for name in layers if "embed" in name or "head" in name]


def test_finds_the_layers_that_targets_name() -> None:
    assert list(adapted_layers(LAYERS, LoraShape(4, 8, False, ("q_proj",)))) == ["model.layers.0.self_attn.q_proj"]
    assert adapted_layers(LAYERS, LoraShape(4, 8, False, None)) == LAYERS
    with pytest.raises(ConfigInvalid, match="'proj'"):
        adapted_layers(LAYERS, LoraShape(4, 8, False, ("q_proj", "proj")))


def test_names_targets_by_their_last_part_only_where_that_is_exact() -> None:
    both = {"a.0.q": (2, 2), "a.1.q": (2, 2)}
    assert target_names(both, both) == ["q"]
    assert target_names(both, {"a.0.q": (2, 2)}) == ["a.0.q"]


def test_wants_exactly_the_tensors_of_the_adapted_layers() -> None:
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    adapted = {"model.layers.0.self_attn.q_proj": (32, 16)}
    sound = {f"{prefix}.lora_A.weight": tensor(4, 16), f"{prefix}.lora_B.weight": tensor(32, 4)}
    check_tensors(sound, adapted, 4)
    wrong = {
        "1 are missing": {f"{prefix}.lora_A.weight": tensor(4, 16)},
        "1 are unexpected": sound | {"base_model.model.lm_head.weight": tensor(9, 9)},
        r"calls? for \[32, 4\]": sound | {f"{prefix}.lora_B.weight": tensor(4, 32)},
    }
    for said, entries in wrong.items():
        with pytest.raises(TensorsMismatch, match=said):
            check_tensors(entries, adapted, 4)

"""The process that loads a stranger's adapter: what it may take, what it refuses, and how its death is told."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from services.training.adapters.errors import CheckOutOfMemory
from services.training.adapters.order import CheckOrder, Verdict, parse_verdict
from services.training.child import supervise
from services.training.errors import TrainingChildDied
from services.training.lora import check_adapter
from services.training.settings import child_environment
from tests.factories.tiny_model import make_tiny_model

pytestmark = pytest.mark.timeout(300)
ROOM = 1 << 30


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """As the worker hands it over: two files, the configuration with a task type."""
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def verdict(base: Path, adapter: Path, *, memory_bytes: int = ROOM) -> Verdict:
    order = CheckOrder(model_dir=base, adapter_dir=adapter, home=adapter.parent / "home", memory_bytes=memory_bytes)
    path = adapter.parent / "order.json"
    path.write_text(order.model_dump_json())
    return supervise(
        "services.training.lora.check_adapter",
        path,
        environment=child_environment() | {"CUDA_VISIBLE_DEVICES": ""},
        parse=parse_verdict,
        last=Verdict,
        on_event=lambda _event: None,
        wish=lambda: None,
        grace_seconds=1.0,
    )


def code(found: Verdict) -> str | None:
    return found.refusal.code if found.refusal else None


def test_finds_nothing_wrong_with_what_peft_saved(base: Path, adapter: Path) -> None:
    assert verdict(base, adapter).refusal is None


def test_is_refused_memory_beyond_its_limit(base: Path, adapter: Path) -> None:
    try:
        found = code(verdict(base, adapter, memory_bytes=0))
    except TrainingChildDied:
        return  # denied where a library does not ask whether it got what it wanted: then the process is gone
    assert found == "adapter_check_out_of_memory"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        SafetensorError("Error: Cannot allocate memory (os error 12)"),
    ],
)
def test_names_a_lack_of_memory_however_it_is_told(
    base: Path, adapter: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_weights: Path) -> None:
        raise error

    monkeypatch.setattr(check_adapter, "check_values", denied)
    order = CheckOrder(model_dir=base, adapter_dir=adapter, home=adapter.parent / "home", memory_bytes=ROOM)
    with pytest.raises(CheckOutOfMemory, match="1024 MiB"):
        check_adapter.check(order)


def test_refuses_an_adapter_whose_pass_overflows(base: Path, adapter: Path) -> None:
    """Every value is finite and allowed; their products are not."""
    weights = adapter / "adapter_model.safetensors"
    save_file({name: torch.full_like(value, 9e5) for name, value in load_file(weights).items()}, weights)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 1e38}))
    assert code(verdict(base, adapter)) == "adapter_not_loadable"


def test_refuses_tensors_that_peft_has_no_place_for(base: Path, adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    save_file(load_file(weights) | {"base_model.model.model.layers.0.other.lora_A.weight": torch.zeros(2, 2)}, weights)
    assert code(verdict(base, adapter)) == "adapter_not_loadable"


def test_says_what_the_library_says_of_a_damaged_file(base: Path, adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert code(verdict(base, adapter)) == "adapter_header_invalid"


def test_tells_of_a_child_that_died_without_a_word(base: Path, adapter: Path) -> None:
    with pytest.raises(TrainingChildDied, match="status 1"):
        verdict(base, adapter / "none")

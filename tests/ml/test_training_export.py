"""The exporting child's work, in this process: merging every kind of adapter, and what a type costs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from services.training.export.order import Advanced, ExportEvent, ExportOrder
from services.training.export.packing import pack
from services.training.lora.export_model import export
from tests.factories.tiny_model import make_adapter, make_tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("export") / "tiny")


def ordered(base: Path, adapter: Path | None, output: Path, dtype: Any = "auto") -> ExportOrder:
    output.mkdir()
    return ExportOrder(model_dir=base, adapter_dir=adapter, dtype=dtype, output_dir=output, home=output)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(input_ids=torch.arange(3, 60)[None]).logits
    return found


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"use_dora": True, "use_rslora": True},
        {"target_modules": ["v_proj"]},
    ],
    ids=["lora", "rslora", "dora", "both", "one-target"],
)
def test_merges_so_that_logits_stay(base: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    adapter = make_adapter(base, tmp_path / "adapter", **config)
    heard: list[ExportEvent] = []
    exported = export(ordered(base, adapter, tmp_path / "out"), heard.append)
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    unmerged = logits(PeftModel.from_pretrained(whole, str(adapter)))
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32))
    assert float((merged - unmerged).abs().max()) < 1e-4
    assert float((merged - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max()) > 0.05, "it changes much"
    assert exported.dtype == "float32"
    assert exported.largest_logit_difference < 1e-4
    assert exported.same_next_tokens == exported.positions > 100
    assert [event.done for event in heard if isinstance(event, Advanced)] == [0, 1, 2]


def test_rounds_to_the_wanted_type_and_says_what_that_costs(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    exported = export(ordered(base, adapter, tmp_path / "out", "bfloat16"), lambda _event: None)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert exported.dtype == "bfloat16"
    assert 1e-4 < exported.largest_logit_difference < exported.logit_spread


def test_keeps_the_type_of_the_base_where_none_is_wanted(base: Path, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow"
    export(ordered(base, None, narrow, "bfloat16"), lambda _event: None)
    for path in base.glob("tokenizer*"):
        (narrow / path.name).write_bytes(path.read_bytes())
    adapter = make_adapter(narrow, tmp_path / "adapter")
    assert export(ordered(narrow, adapter, tmp_path / "out"), lambda _event: None).dtype == "bfloat16"


def test_packs_equal_folders_into_equal_bytes(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    packs = []
    for name in ("one", "two"):
        export(ordered(base, adapter, tmp_path / name), lambda _event: None)
        pack(tmp_path / name, tmp_path / f"{name}.zip")
        packs.append((tmp_path / f"{name}.zip").read_bytes())
    assert packs[0] == packs[1]

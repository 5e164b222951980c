"""The exporting child's work, in this process: merging every kind of adapter, and what a type costs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.training.export.errors import FormatNotPossible
from services.training.export.gguf_rules import check_gguf
from services.training.export.order import GGUF_FILE, Advanced, ExportEvent, ExportOrder, GgufFacts
from services.training.export.packing import pack
from services.training.lora.export_model import export
from tests.factories.tiny_model import make_adapter, make_tiny_model

FACTS = GgufFacts(name="ft:tiny:p::abc", base_model="tiny", licence="apache-2.0", card="# A card\n")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("export") / "tiny")


@pytest.fixture(scope="module")
def byte_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("export-bytes") / "tiny", byte_level=True)


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


@pytest.mark.parametrize(
    ("dtype", "most"), [("float32", 1e-4), ("float16", 0.05), ("bfloat16", 0.3), ("q8_0", 0.3)], ids=str
)
def test_writes_gguf_that_another_reader_understands(byte_base: Path, tmp_path: Path, dtype: str, most: float) -> None:
    adapter = make_adapter(byte_base, tmp_path / "adapter", use_dora=True)
    order = ordered(byte_base, adapter, tmp_path / "out", dtype)
    exported = export(order.model_copy(update={"gguf": FACTS}), lambda _event: None)
    whole = AutoModelForCausalLM.from_pretrained(byte_base, dtype=torch.float32)
    unmerged = logits(PeftModel.from_pretrained(whole, str(adapter)))
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out", gguf_file=GGUF_FILE, dtype=torch.float32)
    assert float((logits(read) - unmerged).abs().max()) < most
    assert exported.largest_logit_difference < most
    assert (exported.dtype, read.config.tie_word_embeddings) == (dtype, True)


def test_gguf_holds_tokenizer_template_and_card(byte_base: Path, tmp_path: Path) -> None:
    order = ordered(byte_base, None, tmp_path / "out", "float32")
    export(order.model_copy(update={"gguf": FACTS}), lambda _event: None)
    own, read = (
        AutoTokenizer.from_pretrained(byte_base),
        AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file=GGUF_FILE),
    )
    for text in ("How long may I keep a book?", "naïve 2023\n\tüber", "<s>user:a</s>\n"):
        assert read(text).input_ids == own(text).input_ids
    chat = [{"role": "user", "content": "a"}]
    assert read.apply_chat_template(chat, tokenize=False) == own.apply_chat_template(chat, tokenize=False)
    fields = GGUFReader(tmp_path / "out" / GGUF_FILE).fields
    assert fields["uplift.model_card"].contents() == FACTS.card
    assert fields["general.license"].contents() == "apache-2.0"
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("unknown", "bos", "eos")] == [0, 1, 2]
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert fields["tokenizer.ggml.token_type"].contents()[:4] == [3, 3, 3, 1], "control tokens, then ordinary ones"


def test_refuses_gguf_of_what_it_cannot_convert(base: Path, byte_base: Path, tmp_path: Path) -> None:
    check_gguf(byte_base)
    with pytest.raises(FormatNotPossible, match=r"no byte-level BPE.*convert_hf_to_gguf"):
        check_gguf(base)
    for change, said in (
        ({"model_type": "gemma"}, "'gemma'"),
        ({"attention_bias": True}, "biases"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "positions are scaled"),
    ):
        shutil.copytree(byte_base, tmp_path / said)
        config = json.loads((byte_base / "config.json").read_text())
        (tmp_path / said / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(FormatNotPossible, match=said):
            check_gguf(tmp_path / said)

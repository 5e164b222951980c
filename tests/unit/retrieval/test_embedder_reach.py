"""What a folder says of how much its embedder reads."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.retrieval.embedder_reach import reach, refuse_unread
from services.retrieval.errors import ChunksTooLong

TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ],
    "special_tokens": {"[CLS]": {"ids": [101]}, "[SEP]": {"ids": [102, 103]}},
}


def folder(models: Path, name: str = "e", **files: dict[str, Any]) -> Path:
    (models / name).mkdir(exist_ok=True)
    for file, content in files.items():
        (models / name / f"{file}.json").write_text(json.dumps(content))
    return models


@pytest.mark.parametrize(
    ("step", "added"),
    [
        (None, 0),
        (TEMPLATE, 3),
        ({"type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101]}, 2),
        ({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}, 2),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, TEMPLATE]}, 3),
        ({"type": "ByteLevel"}, 0),
    ],
)
def test_leaves_out_the_tokens_that_the_tokenizer_adds(tmp_path: Path, step: Any, added: int) -> None:
    folder(tmp_path, sentence_bert_config={"max_seq_length": 256}, tokenizer={"post_processor": step})
    assert reach(tmp_path, "e") == 256 - added


def test_takes_the_models_least_limit_where_it_has_none_of_its_own(tmp_path: Path) -> None:
    endless, model = {"model_max_length": 10**30}, {"max_position_embeddings": 512}
    folder(tmp_path, tokenizer={}, tokenizer_config=endless, config=model)
    assert reach(tmp_path, "e") == 512
    folder(tmp_path, "f", tokenizer={}, sentence_bert_config={"max_seq_length": None})
    (tmp_path / "f" / "tokenizer_config.json").write_text('{"model_max_length": 384}')
    assert reach(tmp_path, "f") == 384


def test_knows_nothing_of_an_embedder_that_is_not_here_or_does_not_say(tmp_path: Path) -> None:
    folder(tmp_path, tokenizer={})
    (folder(tmp_path, "broken") / "broken" / "tokenizer.json").write_text("{")
    (tmp_path / "broken" / "sentence_bert_config.json").write_text('{"max_seq_length": 9}')
    assert [reach(tmp_path, name) for name in ("e", "none", "broken")] == [None] * 3
    refuse_unread({"most": 4096, "overlap": 0}, tmp_path, "none")


def test_reads_a_folder_anew_when_its_tokenizer_is_another(tmp_path: Path) -> None:
    folder(tmp_path, tokenizer={}, sentence_bert_config={"max_seq_length": 100})
    assert reach(tmp_path, "e") == 100
    folder(tmp_path, tokenizer={"post_processor": TEMPLATE}, sentence_bert_config={"max_seq_length": 50})
    assert reach(tmp_path, "e") == 47


def test_refuses_what_lies_beyond_it_and_nothing_else(tmp_path: Path) -> None:
    folder(tmp_path, tokenizer={}, sentence_bert_config={"max_seq_length": 100})
    refuse_unread(None, tmp_path, "e")
    refuse_unread({"most": 100, "overlap": 50}, tmp_path, "e")
    with pytest.raises(ChunksTooLong, match="at most 100") as refused:
        refuse_unread({"most": 101, "overlap": 0}, tmp_path, "e", where="files.2.")
    assert refused.value.param == "files.2.chunking_strategy.static.max_chunk_size_tokens"

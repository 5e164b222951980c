"""The model card says how to load what lies beside it, in words that the programs accept."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.training.export.card import History, model_card
from services.training.export.repository import Weights

UPLOADED = History(data=[], rows_sha256=None, curves=None, scores=[])


def card(folder: Path, form: str = "adapter", **recipe: Any) -> str:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    weights = Weights("ad_x", "ft:tiny:p::x", "tiny", "key", recipe, {}, at, job=None, step=None)
    return model_card(weights, folder, form, UPLOADED, {})


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (16, 16), (200, 256), (512, 512)])
def test_names_a_rank_that_vllm_makes_room_for(tmp_path: Path, rank: int, room: int) -> None:
    assert f"--max-lora-rank {room} " in card(tmp_path, rank=rank)


@pytest.mark.parametrize("recipe", [{"rank": 16, "dora": True}, {"rank": 1024}])
def test_sends_vllms_users_to_the_merged_model_where_it_loads_no_such_adapter(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    said = card(tmp_path, **recipe)
    assert "export the format merged" in said
    assert "vllm serve" not in said


def test_a_wholly_tuned_model_as_gguf_is_loaded_by_what_reads_gguf(tmp_path: Path) -> None:
    said = card(tmp_path, form="gguf", tune="full")
    assert 'library_name: "gguf"' in said
    assert "as GGUF" in said
    assert "adapter merged in" not in said
    assert 'library_name: "transformers"' in card(tmp_path, form="merged", tune="full")


def test_claims_nothing_of_an_upload_that_is_not_known(tmp_path: Path) -> None:
    said = card(tmp_path, rank=16)
    assert "what it is meant for is not known here" in said
    assert "names no licence" in said
    assert 'license: "other"' in said
    assert "## Loss curves" not in said


def test_says_that_four_bits_were_the_base_in_training_only(tmp_path: Path) -> None:
    assert "beside its base in four bits (QLoRA)" in card(tmp_path, rank=16, tune="qlora")
    assert "QLoRA" not in card(tmp_path, rank=16)

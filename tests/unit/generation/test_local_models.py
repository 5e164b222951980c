"""The models that lie in the home."""

import json
from pathlib import Path

import pytest

from services.generation.local_models import base_model_folder, local_models


def put(folder: Path, name: str, **files: object) -> None:
    (folder / name).mkdir(parents=True)
    for file, content in {"config": {}, **files}.items():
        (folder / name / f"{file}.json").write_text(json.dumps(content))


def test_tells_base_models_from_embedders_by_what_their_folders_say(tmp_path: Path) -> None:
    put(tmp_path, "b-noted", uplift={"kind": "embedder", "provenance": "noted"})
    put(tmp_path, "c-shaped", modules=[])
    put(tmp_path, "a-plain")
    assert [(model.id, model.kind) for model in local_models(tmp_path)] == [
        ("a-plain", "base"),
        ("b-noted", "embedder"),
        ("c-shaped", "embedder"),
    ]


def test_hides_what_is_still_being_pulled(tmp_path: Path) -> None:
    put(tmp_path, ".pulling")
    (tmp_path / "empty").mkdir()
    assert local_models(tmp_path) == []
    assert local_models(tmp_path / "none") == []


@pytest.mark.parametrize("name", ["../outside", "..", ".", "", "inside/../inside", "/etc", "a\x00b", "x" * 5000])
def test_takes_a_name_as_a_label_and_never_as_a_path(tmp_path: Path, name: str) -> None:
    put(tmp_path, "outside")
    put(tmp_path / "models", "inside")
    assert base_model_folder(tmp_path / "models", "inside") == tmp_path / "models" / "inside"
    assert base_model_folder(tmp_path / "models", name) is None

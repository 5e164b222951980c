"""The whole way with nothing stood in for: the door, the queue, the worker, its engine, an adapter from the store."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from shared import read_models
from shared.database import Database
from shared.ids import new_id
from shared.settings import Settings
from shared.storage import Storage
from tests.factories.generation import generation_client, generation_worker
from tests.factories.tiny_model import make_tiny_model
from tests.fakes import processes

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generation-home")
    make_tiny_model(folder / "models" / "tiny")
    return folder


@pytest.fixture(scope="module")
def worker(
    stack_environment: dict[str, str], home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[processes.Process]:
    with generation_worker(stack_environment, home, tmp_path_factory.mktemp("worker")) as started:
        yield started


@pytest.fixture
def client(settings: Settings, home: Path, project_id: str, worker: processes.Process) -> Iterator[openai.OpenAI]:
    with generation_client(settings, home, project_id) as connected:
        yield connected


@pytest.fixture
def adapter(database: Database, project_id: str, home: Path, tmp_path: Path) -> str:
    """An adapter as training leaves it, the folder in the store and the row in its table; answers its model id."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(home / "models" / "tiny")
    model = get_peft_model(base, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    model.save_pretrained(tmp_path)
    blob = Storage(f"file://{home / 'blobs'}", cache=home / "cache" / "blobs").put_folder(project_id, tmp_path)
    row = {"id": new_id("ad_"), "project_id": project_id, "model_id": "ft:tiny:tests::1", "base_model": "tiny"}
    row |= {"blob_key": blob.key, "job_id": new_id("ftjob-"), "recipe": {}, "metrics": {}}
    with database.transaction(project_id) as session:
        session.execute(read_models.adapters.insert().values(row | {"train_seconds": 1.0, "trained_tokens": 1}))
    return str(row["model_id"])


def answer(client: openai.OpenAI, model: str, text: str = "Hi") -> openai.types.chat.ChatCompletion:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=12)


def test_serves_an_adapter_of_the_store_by_its_own_model_id(client: openai.OpenAI, adapter: str) -> None:
    plain, tuned, again = answer(client, "tiny"), answer(client, adapter), answer(client, adapter)
    assert (plain.model, tuned.model) == ("tiny", adapter)
    assert plain.choices[0].message.content != tuned.choices[0].message.content
    assert tuned.choices[0].message.content == again.choices[0].message.content
    assert [model.id for model in client.models.list()] == ["tiny", adapter]


def test_names_the_window_that_a_prompt_does_not_fit(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="window is 512") as caught:
        answer(client, "tiny", "a" * 600)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_says_which_part_of_an_adapter_it_cannot_serve(
    client: openai.OpenAI, adapter: str, database: Database, project_id: str, home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    blob = Storage(f"file://{home / 'blobs'}", cache=home / "cache" / "blobs").put_folder(project_id, folder)
    with database.transaction(project_id) as session:
        session.execute(read_models.adapters.update().values(blob_key=blob.key))
    with pytest.raises(openai.BadRequestError, match=r"no adapter_model\.safetensors"):
        answer(client, adapter)
    assert answer(client, "tiny").choices[0].finish_reason in {"stop", "length"}

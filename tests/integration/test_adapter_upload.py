"""An adapter that peft made on the real model, uploaded by OpenAI's client, answers as peft does with it locally."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from fastapi import Request
from fastapi.testclient import TestClient
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.data.routes import router as data
from services.generation.routes import router as generation
from services.training.adapters.routes import router as adapters
from services.training.lora.base_model import has_fast_bfloat16
from shared.ids import new_id
from shared.prompt_format import DEFAULT_SYSTEM
from shared.settings import Settings
from shared.web import Caller, create_app
from shared.wiring import Wiring
from tests.fakes import processes

pytestmark = [pytest.mark.stack, pytest.mark.models, pytest.mark.timeout(600)]
BASE = "smollm2-135m-instruct"
QUESTIONS = ("What is the capital of France?", "Say hello.", "Count from one to ten.")
CLEAR = 0.15
"""A lead in logits that rounding in bfloat16 cannot turn round."""
TOKENS = 8


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, base_model_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("upload-home")
    (folder / "models").symlink_to(base_model_dir.parent)
    return folder


@pytest.fixture(scope="module")
def workers(stack_environment: dict[str, str], home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    environment = stack_environment | {"UPLIFT_HOME": str(home)}
    folder = tmp_path_factory.mktemp("workers")
    started = [
        processes.dispatcher(environment, folder),
        processes.worker(environment, folder, app="services.training.worker", slots=1),
        processes.worker(environment, folder, app="services.generation.worker", slots=4),
    ]
    with processes.killed_at_the_end(*started):
        yield


@pytest.fixture
def client(settings: Settings, home: Path, project_id: str, workers: None) -> Iterator[openai.OpenAI]:
    async def access(_request: Request, _parts: Wiring) -> Caller:
        return Caller(project_id, "tests", "org", "key", ("write",), new_id("req_"))

    own = settings.model_copy(update={"home": home})
    routers = [data, adapters, generation]
    app = create_app("upload", routers, wiring_factory=lambda: Wiring.from_settings(own), access=access)
    with TestClient(app) as http:
        yield openai.OpenAI(base_url="http://testserver/v1", api_key="any", http_client=http, max_retries=0)


@pytest.fixture(scope="module")
def tuned(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PeftModel]:
    """The folder that peft saved, and the model that it saved; in the type that workers here compute with."""
    dtype = torch.bfloat16 if has_fast_bfloat16(torch.device("cpu")) else torch.float32
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=dtype)
    config = LoraConfig(
        r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("tuned")
    model.save_pretrained(folder)
    return folder, model.eval()


def local_answer(model: Any, base_model_dir: Path, question: str) -> tuple[str, float]:
    """What greedy decoding writes, and how far the closest runner-up was behind (in logits)."""
    tokenizer = AutoTokenizer.from_pretrained(base_model_dir)
    messages = [{"role": "system", "content": DEFAULT_SYSTEM}, {"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(
        **prompt, max_new_tokens=TOKENS, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    best = [step[0].float().topk(2).values for step in made.logits]
    text = tokenizer.decode(made.sequences[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    return text, min(float(first - second) for first, second in best)


def upload(client: openai.OpenAI, folder: Path) -> dict[str, Any]:
    ids = [
        client.files.create(file=folder / name, purpose="user_data").id
        for name in ("adapter_model.safetensors", "adapter_config.json")
    ]
    body = {"base_model": BASE, "weights_file": ids[0], "config_file": ids[1], "suffix": "brought"}
    return client.post("/adapters", body=body, cast_to=dict[str, Any])


def ended(client: openai.OpenAI, adapter_id: str) -> dict[str, Any]:
    def show() -> dict[str, Any]:
        return client.get(f"/adapters/{adapter_id}", cast_to=dict[str, Any])

    processes.wait_until(lambda: show()["status"] not in {"queued", "checking"}, seconds=300)
    return show()


def answer(client: openai.OpenAI, model: str, question: str) -> str | None:
    messages: list[Any] = [{"role": "user", "content": question}]
    made = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=TOKENS)
    return made.choices[0].message.content


def test_answers_as_peft_does_with_the_same_files(
    client: openai.OpenAI, tuned: tuple[Path, PeftModel], base_model_dir: Path
) -> None:
    folder, model = tuned
    ready = ended(client, upload(client, folder)["id"])
    assert (ready["status"], ready["error"]) == ("ready", None)
    assert ready["model"].startswith(f"ft:{BASE}:")
    assert ready["model"] in [one.id for one in client.models.list()]
    for question in QUESTIONS:
        text, lead = local_answer(model, base_model_dir, question)
        assert lead > CLEAR, "a question whose answer hangs by a thread proves nothing: choose another"
        assert answer(client, ready["model"], question) == text
        assert answer(client, BASE, question) != text
    body = {"name": "mine", "base_model": BASE, "adapter": ready["id"]}
    variant = client.post("/variants", body=body, cast_to=dict[str, Any])
    assert answer(client, variant["model"], QUESTIONS[0]) == answer(client, ready["model"], QUESTIONS[0])

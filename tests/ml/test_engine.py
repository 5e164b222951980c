"""The batching engine against the library's own generation and against peft, on the real base model in float32."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.generation.answering import AdapterRef, Delta, Finished, GenerationRequest, Sampling
from services.generation.engine import Engine
from services.generation.errors import PromptTooLong, UnsupportedAdapter

pytestmark = pytest.mark.models
QUESTIONS = ["What is the capital of France?", "Name a colour.", "Count from one to five, please, in words.", "Hi"]


@contextlib.contextmanager
def two_threads() -> Iterator[Callable[[], int]]:
    yield lambda: 2


@pytest.fixture(scope="module")
def engine(base_model_dir: Path) -> Iterator[Engine]:
    started = Engine(base_model_dir, share=two_threads, max_batch=8, dtype=torch.float32)
    started.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def reference(base_model_dir: Path) -> Callable[..., str]:
    """The library's own greedy generation, alone."""
    tokenizer = AutoTokenizer.from_pretrained(base_model_dir)
    base = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=torch.float32)

    def answer(question: str, adapter: Path | None = None, tokens: int = 24) -> str:
        model = PeftModel.from_pretrained(base, adapter) if adapter else base
        text = tokenizer.apply_chat_template(messages(question), tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            found = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        if adapter:
            model.unload()
        return tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return answer


@pytest.fixture(scope="module")
def adapters(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    """Three adapters, the last one DoRA, with random weights large enough to change what is said."""
    made = []
    for index, (rank, alpha) in enumerate([(4, 16), (8, 8), (4, 8)]):
        torch.manual_seed(index)
        base = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=torch.float32)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", use_dora=index == 2)
        model = get_peft_model(base, config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
            elif "magnitude" in name:
                parameter.data.mul_(1 + 0.1 * torch.randn_like(parameter))
        folder = tmp_path_factory.mktemp(f"adapter{index}")
        model.save_pretrained(folder)
        made.append(AdapterRef(f"adapter{index}", folder))
    return made


def messages(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]


def request(question: str, adapter: AdapterRef | None = None, **sampling: object) -> GenerationRequest:
    chosen = {"temperature": 0.0, "max_tokens": 24} | sampling
    return GenerationRequest(messages(question), Sampling(**chosen), adapter)  # type: ignore[arg-type]


def collect(stream: object) -> tuple[str, Finished]:
    pieces = list(stream)  # type: ignore[call-overload]
    assert isinstance(pieces[-1], Finished)
    return "".join(piece.text for piece in pieces if isinstance(piece, Delta)), pieces[-1]


def test_says_alone_and_together_what_the_library_says(engine: Engine, reference: Callable[..., str]) -> None:
    expected = [reference(question) for question in QUESTIONS]
    alone = [collect(engine.submit(request(question)))[0] for question in QUESTIONS]
    together = [collect(stream)[0] for stream in [engine.submit(request(question)) for question in QUESTIONS]]
    assert alone == expected
    assert together == expected


def test_serves_adapters_and_the_base_in_one_batch_as_peft_would(
    engine: Engine, reference: Callable[..., str], adapters: list[AdapterRef]
) -> None:
    mix = [(question, adapter) for question in QUESTIONS[:2] for adapter in (None, *adapters)]
    streams = [engine.submit(request(question, adapter)) for question, adapter in mix]
    found = [collect(stream)[0] for stream in streams]
    expected = [reference(question, adapter.folder if adapter else None) for question, adapter in mix]
    assert found == expected
    assert len(set(found)) > 2, "the adapters changed nothing, so this test shows nothing"


def test_lets_requests_join_and_leave_between_tokens(engine: Engine, reference: Callable[..., str]) -> None:
    found: dict[int, str] = {}

    def ask(index: int) -> None:
        found[index] = collect(engine.submit(request(QUESTIONS[index % 4], max_tokens=4 + 5 * (index % 4))))[0]

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {index: reference(QUESTIONS[index % 4], tokens=4 + 5 * (index % 4)) for index in range(4)}
    assert found == {index: expected[index % 4] for index in range(20)}


def test_counts_tokens_exactly(engine: Engine, base_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_model_dir)
    text = tokenizer.apply_chat_template(messages("Hi"), tokenize=False, add_generation_prompt=True)
    *deltas, finished = engine.submit(request("Hi", max_tokens=5))
    assert isinstance(finished, Finished)
    assert finished.prompt_tokens == len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert (finished.completion_tokens, finished.reason) == (5, "length")
    so_far = [(one.prompt_tokens, one.completion_tokens) for one in deltas if isinstance(one, Delta)]
    assert so_far == [(finished.prompt_tokens, count + 1) for count in range(5)]


def test_stops_before_a_stop_string_wherever_the_tokens_fall(engine: Engine) -> None:
    whole, _ = collect(engine.submit(request(QUESTIONS[0])))
    assert "of Fra" in whole
    cut, finished = collect(engine.submit(request(QUESTIONS[0], stop=("of Fra", "never"))))
    assert cut == whole[: whole.index("of Fra")]
    assert finished.reason == "stop"


def test_samples_the_same_with_the_same_seed_in_any_company(engine: Engine) -> None:
    def sampled(seed: int) -> GenerationRequest:
        return request("Tell me a story.", temperature=1.0, top_p=0.9, seed=seed)

    alone, _ = collect(engine.submit(sampled(7)))
    company = [engine.submit(sampled(seed)) for seed in (1, 7, 3, 7)]
    found = [collect(stream)[0] for stream in company]
    assert found[1] == found[3] == alone
    assert len(set(found)) == 3


def test_frees_the_slot_of_a_cancelled_request(engine: Engine) -> None:
    stream = engine.submit(request("Write a very long story.", max_tokens=2000))
    pieces = iter(stream)
    next(pieces)
    stream.cancel()
    *_, last = pieces
    assert isinstance(last, Finished)
    assert last.reason == "cancelled"
    assert last.completion_tokens < 2000


def test_refuses_a_prompt_beyond_the_window_by_name(engine: Engine) -> None:
    with pytest.raises(PromptTooLong, match="window is 8192") as caught:
        engine.submit(request("word " * 9000))
    assert caught.value.param == "messages"


def test_refuses_an_adapter_it_cannot_serve_and_goes_on(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4, "lora_bias": true}')
    with pytest.raises(UnsupportedAdapter, match="lora_bias"):
        collect(engine.submit(request("Hi", AdapterRef("biased", tmp_path))))
    with pytest.raises(UnsupportedAdapter, match=r"adapter_config\.json"):
        collect(engine.submit(request("Hi", AdapterRef("none", tmp_path / "missing"))))
    assert collect(engine.submit(request("Hi")))[1].completion_tokens > 0

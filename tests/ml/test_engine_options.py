"""Choices, penalties, log-probabilities and schemas in the engine, on the real base model in float32."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from llguidance import LLMatcher, LLParserLimits
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.generation.answering import Delta, Finished, GenerationRequest, Sampling, TokenLogprob
from services.generation.engine import Engine
from services.generation.engine.constraint import Constraint
from services.generation.engine.stream import Stream
from services.generation.errors import (
    GenerationFailed,
    PromptTooLong,
    SchemaRefused,
    TokenUnknown,
    UnsupportedParameter,
)
from tests.factories.tiny_model import make_tiny_model
from tests.fakes.processes import wait_until

pytestmark = pytest.mark.models
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "likes": {"type": "array", "items": {"enum": ["tea", "coffee"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}


@contextlib.contextmanager
def two_threads() -> Iterator[Callable[[], int]]:
    yield lambda: 2


@pytest.fixture(scope="module")
def engine(base_model_dir: Path) -> Iterator[Engine]:
    started = Engine(base_model_dir, share=two_threads, max_batch=8, dtype=torch.float32)
    started.start()
    yield started
    started.stop()


def asked(
    question: str, *, choices: int = 1, max_tokens_param: str | None = None, **sampling: Any
) -> GenerationRequest:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    chosen = Sampling(**{"temperature": 0.0, "max_tokens": 24} | sampling)
    return GenerationRequest(messages, chosen, choices=choices, max_tokens_param=max_tokens_param)


def collect(stream: Stream) -> list[tuple[str, list[TokenLogprob], Finished]]:
    """Text, log-probabilities and end of each choice."""
    pieces = list(stream)
    ends = sorted((one for one in pieces if isinstance(one, Finished)), key=lambda end: end.choice)
    said = [one for one in pieces if isinstance(one, Delta)]
    return [
        (
            "".join(one.text for one in said if one.choice == end.choice),
            [token for one in said if one.choice == end.choice for token in one.logprobs],
            end,
        )
        for end in ends
    ]


def answer(engine: Engine, question: str, **options: Any) -> str:
    return collect(engine.submit(asked(question, **options)))[0][0]


MIXED: list[dict[str, Any]] = [
    {},
    {"json_schema": json.dumps(PERSON), "max_tokens": 60},
    {"frequency_penalty": 1.5, "presence_penalty": 0.5},
    {"temperature": 0.9, "top_p": 0.9, "seed": 3, "top_logprobs": 3},
    {"logit_bias": {28: -100.0}, "top_logprobs": 0},
    {"temperature": 1.0, "seed": 5, "json_schema": '{"type":"object"}', "frequency_penalty": 0.2},
    {"stop": (" the",), "top_logprobs": 1},
]


def test_says_in_a_mixed_batch_word_for_word_what_it_says_alone(engine: Engine) -> None:
    question = "Describe a person who lives in Paris."
    alone = [collect(engine.submit(asked(question, **options)))[0] for options in MIXED]
    together = [collect(stream)[0] for stream in [engine.submit(asked(question, **one)) for one in MIXED]]
    assert [one[0] for one in together] == [one[0] for one in alone]
    assert [one[2].completion_tokens for one in together] == [one[2].completion_tokens for one in alone]
    for (_, mine, _), (_, theirs, _) in zip(together, alone, strict=True):
        assert [one.token for one in mine] == [one.token for one in theirs]
        assert [one.logprob for one in mine] == pytest.approx([one.logprob for one in theirs], abs=1e-3)
    assert len({one[0] for one in alone}) == len(MIXED), "two options say the same, so this test shows less"


def test_gives_the_log_probabilities_that_the_library_computes(engine: Engine, base_model_dir: Path) -> None:
    request = asked("What is the capital of France?", top_logprobs=5, temperature=0.7, seed=1, presence_penalty=1.0)
    text, logprobs, _ = collect(engine.submit(request))[0]
    tokenizer = AutoTokenizer.from_pretrained(base_model_dir)
    model = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(request.messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answered = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([token]).encode() for token in answered] == [one.token for one in logprobs]
    with torch.inference_mode():
        logits = model(torch.tensor([ids + answered])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    expected = [float(row[token]) for row, token in zip(logits, answered, strict=True)]
    assert [one.logprob for one in logprobs] == pytest.approx(expected, abs=1e-3)
    for row, one in zip(logits, logprobs, strict=True):
        assert [other.logprob for other in one.alternatives] == pytest.approx(row.topk(5).values.tolist(), abs=1e-3)
        assert one.alternatives[0].logprob >= one.logprob


def test_shows_the_bytes_of_every_token_of_the_text(engine: Engine) -> None:
    text, logprobs, end = collect(engine.submit(asked("Say: Ünïcödé 😀 €", top_logprobs=0, max_tokens=30)))[0]
    assert b"".join(one.token for one in logprobs).decode(errors="ignore") == text
    assert len(logprobs) in {end.completion_tokens, end.completion_tokens - 1}  # the end token is no text


@pytest.mark.parametrize("stop", [" capital of", "capital of"])
def test_shows_no_token_that_a_stop_string_cut_off(engine: Engine, stop: str) -> None:
    question = "What is the capital of France?"
    whole = answer(engine, question)
    assert stop in whole
    text, logprobs, end = collect(engine.submit(asked(question, stop=(stop,), top_logprobs=0)))[0]
    assert text == whole[: whole.index(stop)]
    assert end.reason == "stop"
    *before, last = [one.token.decode() for one in logprobs]
    assert len("".join(before)) < len(text), "the last token begins within the text"
    assert "".join([*before, last]).startswith(text)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 11}, {"temperature": 1.5, "seed": 2}])
def test_follows_a_schema_to_the_letter_and_then_stops(engine: Engine, sampling: dict[str, Any]) -> None:
    request = asked("Describe a person.", json_schema=json.dumps(PERSON), max_tokens=80, **sampling)
    text, _, end = collect(engine.submit(request))[0]
    jsonschema.validate(json.loads(text), PERSON)
    assert end.reason == "stop"
    assert text == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)


def test_answers_an_object_when_any_json_object_will_do(engine: Engine) -> None:
    request = asked("Give me the capital of France as JSON.", json_schema='{"type":"object","maxProperties":2}')
    text, _, end = collect(engine.submit(request))[0]
    assert text.startswith("{")
    assert end.reason == "length" or isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "nothing"}, "Invalid type: nothing"),
        ({"not": {"type": "string"}}, "Unimplemented keys"),
        ({"$ref": "#/missing"}, "does not exist"),
        ({"type": "string", "pattern": "(?=a)"}, "look-around"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "Unsatisfiable schema"),
        ({"type": "object", "x-guidance": {"lenient": True}, "not": {}}, "Unimplemented keys"),
    ],
)
def test_refuses_a_schema_that_it_cannot_follow_with_the_reason(
    engine: Engine, schema: dict[str, Any], says: str
) -> None:
    with pytest.raises(SchemaRefused, match=says) as caught:
        engine.submit(asked("Hi", json_schema=json.dumps(schema)))
    assert caught.value.param == "response_format.json_schema.schema"


def test_fails_only_the_answer_whose_schema_takes_too_much_work(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = engine._vocabulary._tokens()
    assert not isinstance(tokens, ValueError)
    grammar = LLMatcher.grammar_from_json_schema(PERSON, overrides={"whitespace_flexible": False})
    lazy = LLMatcher(tokens, grammar, log_level=0, limits=LLParserLimits(step_lexer_fuel=10))
    alone = answer(engine, "What is the capital of France?")
    other = engine.submit(asked("What is the capital of France?"))
    with monkeypatch.context() as patched:
        patched.setattr(engine._vocabulary, "compile", lambda _schema: Constraint(lazy))
        stream = engine.submit(asked("Describe a person.", json_schema="{}", max_tokens=60))
    with pytest.raises(GenerationFailed, match="held to its schema any further: lexer error"):
        list(stream)
    assert collect(other)[0][0] == alone


def test_bans_a_token_and_makes_another_certain(engine: Engine, base_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base_model_dir)
    first = tokenizer(answer(engine, "What is the capital of France?"))["input_ids"][0]
    assert tokenizer.decode([first]) not in answer(engine, "What is the capital of France?", logit_bias={first: -100.0})
    forced = tokenizer(" tea", add_special_tokens=False)["input_ids"][0]
    assert answer(engine, "Hi", logit_bias={forced: 100.0}, max_tokens=3) == " tea tea tea"


def test_penalises_what_the_answer_has_said_and_not_what_it_was_asked(engine: Engine, base_model_dir: Path) -> None:
    request = asked("Repeat: tea tea tea tea", frequency_penalty=0.6, presence_penalty=0.4, max_tokens=16)
    tokenizer = AutoTokenizer.from_pretrained(base_model_dir)
    model = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(request.messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    said: list[int] = []
    while len(said) < 16 and tokenizer.eos_token_id not in said:
        with torch.inference_mode():
            logits = model(torch.tensor([ids + said])).logits[0, -1].clone()
            for token in set(said):
                logits[token] -= 0.6 * said.count(token) + 0.4
        said.append(int(logits.argmax()))
    expected = tokenizer.decode(said, skip_special_tokens=True)
    assert collect(engine.submit(request))[0][0] == expected
    assert expected != answer(engine, "Repeat: tea tea tea tea", max_tokens=16)


def test_refuses_a_bias_on_a_token_that_the_model_does_not_have(engine: Engine) -> None:
    with pytest.raises(TokenUnknown, match="0 to 49151") as caught:
        engine.submit(asked("Hi", logit_bias={49152: 1.0}))
    assert caught.value.param == "logit_bias"


def test_samples_every_choice_on_its_own_and_repeatably(engine: Engine) -> None:
    request = asked("Tell me a story.", temperature=1.0, seed=7, choices=4)
    found = [one[0] for one in collect(engine.submit(request))]
    assert len(set(found)) == 4
    assert [one[0] for one in collect(engine.submit(request))] == found
    assert found[0] == answer(engine, "Tell me a story.", temperature=1.0, seed=7)
    assert found[2] == answer(engine, "Tell me a story.", temperature=1.0, seed=9)


def test_reads_a_prompt_once_for_all_its_choices(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    forward = engine._batch._forward

    def watched(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        read.append(tuple(ids.shape))
        return forward(ids, *rest)

    monkeypatch.setattr(engine._batch, "_forward", watched)
    found = collect(engine.submit(asked("Hi", choices=5, max_tokens=3)))
    assert read[0] == (1, found[0][2].prompt_tokens)
    assert read[1] == (5, 1)
    assert len({one[0] for one in found}) == 1  # greedy


def test_serves_more_choices_than_the_batch_has_rows(engine: Engine) -> None:
    found = collect(engine.submit(asked("Hi", choices=19, max_tokens=4, temperature=1.0, seed=1)))
    assert [one[2].choice for one in found] == list(range(19))
    assert len({one[0] for one in found}) > 10


def test_frees_the_slots_of_all_choices_when_the_client_has_gone(engine: Engine) -> None:
    stream = engine.submit(asked("Write a very long story.", choices=6, max_tokens=2000))
    next(iter(stream))
    stream.cancel()
    wait_until(lambda: not engine._batch.rows and not engine._waiting, seconds=30)
    ends = [piece for piece in stream if isinstance(piece, Finished)]
    assert [end.reason for end in ends] == ["cancelled"] * 6


def test_ends_all_choices_at_the_deadline(engine: Engine) -> None:
    request = asked("Write a very long story.", choices=6, max_tokens=2000)
    late = GenerationRequest(request.messages, request.sampling, choices=6, deadline=time.monotonic() + 0.5)
    with pytest.raises(Exception, match="deadline passed"):
        list(engine.submit(late))
    wait_until(lambda: not engine._batch.rows and not engine._waiting, seconds=30)


def test_refuses_an_answer_longer_than_the_window_has_room_for_in_the_callers_words(engine: Engine) -> None:
    with pytest.raises(PromptTooLong, match="window is 8192") as caught:
        engine.submit(asked("Hi", max_tokens=8192, max_tokens_param="max_completion_tokens"))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "max_completion_tokens")
    stream = engine.submit(asked("Hi", max_tokens=10_000))  # a default is cut instead
    stream.cancel()


def test_says_of_a_tokenizer_that_no_schema_can_hold_it(tmp_path: Path) -> None:
    engine = Engine(make_tiny_model(tmp_path / "tiny"), share=two_threads, dtype=torch.float32)
    engine.start()
    with pytest.raises(UnsupportedParameter, match="cannot be held to a schema") as caught:
        engine.submit(asked("Hi", json_schema="{}"))
    assert caught.value.param == "response_format"
    text, logprobs, _ = collect(engine.submit(asked("Hi", top_logprobs=1, max_tokens=9)))[0]
    engine.stop()
    assert b"".join(one.token for one in logprobs).decode() == text
    assert all(-math.inf < one.logprob <= 0 for one in logprobs)

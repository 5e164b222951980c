"""Digests, a release's history, and the engines a worker keeps."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.answering import Delta, Finished, GenerationEngine, GenerationRequest
from services.generation.domain import digest, pointed, rolled_back
from services.generation.engines import Engines
from services.generation.errors import ModelNotFound


class NamedEngine:
    """Loads at once, answers nothing, remembers that it was retired."""

    def __init__(self, name: str) -> None:
        self.name, self.retired = name, False

    def submit(self, request: GenerationRequest) -> Iterator[Delta | Finished]:
        raise NotImplementedError

    def count_tokens(self, text: str) -> int:
        return len(text)

    def retire(self) -> None:
        self.retired = True

    def stop(self) -> None:
        self.retired = True


def test_gives_equal_content_one_digest_whatever_the_order_of_its_keys() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


@given(st.lists(st.sampled_from(["var_a", "var_b", "var_c"]), min_size=2))
def test_rolls_back_to_the_variant_before_whatever_came(variants: list[str]) -> None:
    history: list[object] = []
    for variant in variants:
        history = pointed(history, variant, {}, "2026-01-01")
    back = rolled_back(history)
    assert back is not None
    assert back == (history[:-1], variants[-2])


def test_has_nothing_to_roll_back_to_after_one_release() -> None:
    assert rolled_back(pointed([], "var_a", {"p": 0.01}, "2026-01-01")) is None
    assert rolled_back([]) is None


def test_loads_an_engine_once_and_retires_the_least_recently_used() -> None:
    made: dict[str, NamedEngine] = {}

    def load(name: str) -> GenerationEngine:
        assert name not in made
        made[name] = NamedEngine(name)
        return made[name]  # type: ignore[return-value]

    engines = Engines(load, most=2)
    assert engines("a") is engines("a")
    engines("b")
    engines("a")
    engines("c")
    engines("c")
    assert {name: engine.retired for name, engine in made.items()} == {"a": False, "b": True, "c": False}


def test_tries_again_after_an_engine_did_not_load() -> None:
    tries = iter([ModelNotFound("not yet"), None])

    def load(name: str) -> GenerationEngine:
        if (error := next(tries)) is not None:
            raise error
        return NamedEngine(name)  # type: ignore[return-value]

    engines = Engines(load, most=1)
    with pytest.raises(ModelNotFound):
        engines("late")
    assert engines("late").count_tokens("abc") == 3


def test_gives_a_loaded_engine_while_another_loads() -> None:
    gate = threading.Event()

    def load(name: str) -> GenerationEngine:
        if name == "slow":
            gate.wait(10)
        return NamedEngine(name)  # type: ignore[return-value]

    engines = Engines(load, most=2)
    engines("quick")
    waiting = threading.Thread(target=engines, args=("slow",))
    waiting.start()
    assert engines("quick").count_tokens("") == 0
    assert waiting.is_alive()
    gate.set()
    waiting.join(10)

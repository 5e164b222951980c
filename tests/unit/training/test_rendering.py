"""Rows are laid out as they will be served, and learned turns are found again behind what the layout adds."""

import json
from pathlib import Path

import pytest

from services.training.domain import Example
from services.training.rendering import Renderer
from shared.prompt_format import PromptSpec, Shot
from tests.factories.tiny_model import make_tiny_model


@pytest.mark.parametrize("own_system", [False, True])
def test_learned_turns_keep_their_text_behind_system_prompt_and_shots(tmp_path: Path, own_system: bool) -> None:
    turns = [("user", "a?"), ("assistant", "A"), ("user", "b?"), ("assistant", "B"), ("user", "c?")]
    if own_system:
        turns = [("system", "mine"), *turns]
    messages = tuple({"role": role, "content": content} for role, content in turns)
    learned = tuple(place for place, (_, content) in enumerate(turns) if content == "B")
    prompt = PromptSpec(system="s", instruction="Answer.", shots=(Shot(question="q", answer="x"),))
    renderer = Renderer(make_tiny_model(tmp_path / "tiny"), prompt, None)
    count, _ = renderer.write(
        tmp_path / "rows", [Example(messages, "C", also_learned=learned, line=3), Example(messages, "C", rejected="D")]
    )
    first, second = map(json.loads, (tmp_path / "rows").read_text().splitlines())
    assert count == 2
    assert [first["messages"][place]["content"] for place in first["also_learned"]] == ["B"]
    assert (first["line"], "rejected" in first) == (3, False)
    assert (second["rejected"], "also_learned" in second) == ("D", False)

"""Model ids, hyperparameters and chat files."""

import json

import pytest

from services.training.domain import fine_tuned_model_id, hyperparameters_of, read_chat_lines, with_hyperparameters
from services.training.errors import InvalidTrainingFile
from services.training.recipe import Recipe


def line(*messages: tuple[str, object]) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]}).encode()


GOOD = line(("user", "q"), ("assistant", "a"))


def test_model_id_has_openais_form() -> None:
    assert fine_tuned_model_id("base", "My Shop!", "v1", "ftjob-0123456789") == "ft:base:my-shop:v1:23456789"
    assert fine_tuned_model_id("base", "p", None, "ftjob-0123456789") == "ft:base:p::23456789"


def test_auto_leaves_the_recipe_as_it_is() -> None:
    recipe = Recipe(epochs=7, learning_rate=2e-4)
    assert with_hyperparameters(recipe, {"n_epochs": "auto", "batch_size": None}) == recipe


def test_hyperparameters_survive_the_round_trip() -> None:
    wanted = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5}
    assert hyperparameters_of(with_hyperparameters(Recipe(), wanted)) == wanted


def test_reads_the_answer_and_the_turns_before_it() -> None:
    (example,) = read_chat_lines([line(("system", "s"), ("user", "q"), ("assistant", "a"))], "f")
    assert example.answer == "a"
    assert [message["role"] for message in example.messages] == ["system", "user"]


@pytest.mark.parametrize(
    "bad",
    [
        b"{",
        b"[]",
        b'{"messages": []}',
        line(("user", "q"), ("user", "r")),
        line(("user", "q"), ("robot", "a")),
        line(("user", 3), ("assistant", "a")),
        line(("user", "q"), ("assistant", "  ")),
    ],
)
def test_names_the_line_that_is_no_chat(bad: bytes) -> None:
    lines = [GOOD] * 500 + [b"\n", bad]
    with pytest.raises(InvalidTrainingFile, match=r"Line 502 of chats\.jsonl"):
        list(read_chat_lines(lines, "chats.jsonl"))

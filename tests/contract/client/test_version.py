"""Which client this run drives."""

import os

import openai

from tests.contract.client.described import Described


def test_is_the_client_that_the_run_says() -> None:
    assert openai.VERSION.split(".")[0] == os.environ.get("CONTRACT_CLIENT_MAJOR", "3")


def test_holds_every_answer_against_the_description_where_there_is_a_validator(
    client: openai.OpenAI, described: Described | None
) -> None:
    held = described.held if described else 0
    client.models.list()
    assert described is None or described.held == held + 1
    assert (described is None) == (openai.VERSION.split(".")[0] == "2")

"""Which client this run drives."""

import os

import openai


def test_is_the_client_that_the_run_says() -> None:
    assert openai.VERSION.split(".")[0] == os.environ.get("CONTRACT_CLIENT_MAJOR", "3")

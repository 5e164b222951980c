"""Tools that other people build on OpenAI's client, against a running platform. Imports nothing of ours."""

import os

import pytest

CHAT = "smollm2-135m-instruct"
EMBEDDER = "all-minilm-l6-v2"


@pytest.fixture(scope="session")
def where() -> dict[str, str]:
    """What every tool is configured with: an address and a key, nothing else."""
    return {"base_url": os.environ["CONTRACT_BASE_URL"], "api_key": os.environ["CONTRACT_API_KEY"]}

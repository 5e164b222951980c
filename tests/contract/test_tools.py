"""LangChain's and LlamaIndex's OpenAI classes work against the platform: tools/ in an environment of its own."""

import re
from pathlib import Path

import pytest

from tests.contract.conftest import run_suite
from tests.contract.running import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.models, pytest.mark.timeout(600)]


def test_langchain_and_llama_index_work_unmodified(platform: Platform, client_environments: Path) -> None:
    told = platform.client_environment("tools")
    ran = run_suite("tools", client_environments / "tools/bin/python", told)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-3000:]
    closing = ran.stdout.splitlines()[-1]
    assert re.fullmatch(r"\d+ passed in .*", closing), closing

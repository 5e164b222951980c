"""The suite in client/ passes with the older client too, in an environment that has nothing of ours."""

import re
from pathlib import Path

import pytest

from tests.contract.conftest import run_suite
from tests.contract.running import Platform

pytestmark = [pytest.mark.e2e, pytest.mark.models, pytest.mark.timeout(1200)]


def test_openai_2_54_passes_the_same_suite(platform: Platform, client_environments: Path) -> None:
    told = platform.client_environment("older-client") | {"CONTRACT_CLIENT_MAJOR": "2"}
    ran = run_suite("client", client_environments / "openai2/bin/python", told)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-3000:]
    closing = ran.stdout.splitlines()[-1]
    assert re.fullmatch(r"\d+ passed in .*", closing), closing  # nothing skipped, nothing expected to fail

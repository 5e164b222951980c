"""No request whatever makes the platform fail, or answer other than its description says."""

import re
from pathlib import Path

import pytest

from tests.contract.fuzzing import fuzz
from tests.contract.running import Platform

# thousands of requests, one after the other: every operation's own edge cases come before the random ones
pytestmark = [pytest.mark.e2e, pytest.mark.models, pytest.mark.timeout(1800)]


def test_schemathesis_finds_nothing_with_every_check_on(platform: Platform, tmp_path: Path) -> None:
    """A small budget and a fixed seed here; `make fuzz` has a large one."""
    status, report = fuzz(platform, tmp_path, seed=1, examples=3, edges=40)
    assert status == 0, report[-25_000:]
    tested = re.findall(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", report)
    assert len(tested) == 2
    assert all(selected == known == asked for selected, known, asked in tested), "every operation is tested"

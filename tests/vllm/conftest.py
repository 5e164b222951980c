"""These tests take an environment of 2 GB and minutes of both cores: they are collected only where they are named."""

from pathlib import Path

import pytest

_HERE = Path(__file__).parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Nothing of this folder, unless it or a file in it is an argument of the command line."""
    named = [(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(_HERE) for path in named) else True

"""The doctor's rules on real runs of a tiny model, made sick on purpose; the whole study is `make bench-doctor`."""

from pathlib import Path

import pytest

from services.training.doctor.diagnosis import diagnose
from services.training.recipe import Recipe
from tests.factories.general_model import general_model
from tests.factories.sick_runs import ILLNESSES, run

SLICE = (
    "healthy, and some dropout",
    "healthy, label smoothing 0.1 and some dropout",
    "learning rate 0.1",
    "label smoothing 0.5",
    "24 examples",
    "against what was known",
)


@pytest.mark.parametrize("name", SLICE)
def test_names_the_sickness_and_leaves_the_healthy_alone(name: str, tmp_path: Path) -> None:
    facts = run(general_model(), tmp_path, ILLNESSES[name], seed=1)
    found = diagnose(facts)
    assert found.verdict == ILLNESSES[name].verdict
    assert found.not_judged == ()
    for finding in found.findings:
        assert finding.evidence
        remedied = Recipe.from_differences(facts.recipe.model_dump() | dict(finding.remedy))
        assert remedied != facts.recipe

"""What clients send to the doctor, and a diagnosis as they see it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import ConfigDict, Field

from services.training.doctor.diagnosis import diagnose, finds
from services.training.doctor.facts import Facts
from services.training.doctor.findings import Finding
from shared.body import Body


class StartRemedy(Body):
    """Which finding to remedy."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"verdict": "overfitting"}]})

    verdict: str | None = Field(None, description="One of the diagnosis' findings; the first one when left out.")


def diagnosis_object(job_id: str, status: str, facts: Facts, remedies: list[dict[str, Any]]) -> dict[str, Any]:
    """The verdict first, then what it stands on."""
    found = diagnose(facts)
    return {
        "object": "fine_tuning.diagnosis",
        "fine_tuning_job_id": job_id,
        "status": status,
        "verdict": found.verdict,
        "findings": [_finding_object(finding) for finding in found.findings],
        "forecast": found.forecast and asdict(found.forecast),
        "not_judged": list(found.not_judged),
        **_measured(facts),
        "remedies": remedies,
    }


def remedy_object(
    job_id: str, status: str, note: Mapping[str, Any], facts: Facts, *, comparable: bool
) -> dict[str, Any]:
    """A remedy that was started, with the measures that the diagnosis gives of the first run."""
    return {
        "fine_tuning_job_id": job_id,
        "verdict": note["verdict"],
        "recipe": note["recipe"],
        "status": status,
        **_measured(facts),
        "comparable": comparable,
        "found_again": finds(facts, note["verdict"]),
    }


def _measured(facts: Facts) -> dict[str, Any]:
    """The best validation loss, and the loss on general questions before and after the run."""
    return {
        "valid_loss": facts.best and facts.best.valid_loss,
        "general_ability": facts.probed and asdict(facts.probed),
    }


def _finding_object(finding: Finding) -> dict[str, Any]:
    return {
        "verdict": finding.verdict,
        "summary": finding.summary,
        "evidence": [asdict(one) | {"steps": one.steps and list(one.steps)} for one in finding.evidence],
        "remedy": {"advice": finding.advice, "recipe": dict(finding.remedy)},
    }

"""What clients send to the doctor, and a diagnosis as they see it."""

from dataclasses import asdict
from typing import Any

from pydantic import Field

from services.training.doctor.diagnosis import Diagnosis
from services.training.doctor.findings import Finding
from shared.body import Body


class StartRemedy(Body):
    """Which finding to remedy."""

    verdict: str | None = Field(None, description="One of the diagnosis' findings; the first one when left out.")


def diagnosis_object(
    job_id: str, status: str, found: Diagnosis, valid_loss: float | None, remedies: list[dict[str, Any]]
) -> dict[str, Any]:
    """The verdict first, then what it stands on."""
    return {
        "object": "fine_tuning.diagnosis",
        "fine_tuning_job_id": job_id,
        "status": status,
        "verdict": found.verdict,
        "findings": [_finding_object(finding) for finding in found.findings],
        "forecast": found.forecast and asdict(found.forecast),
        "not_judged": list(found.not_judged),
        "valid_loss": valid_loss,
        "remedies": remedies,
    }


def _finding_object(finding: Finding) -> dict[str, Any]:
    return {
        "verdict": finding.verdict,
        "summary": finding.summary,
        "evidence": [asdict(one) | {"steps": one.steps and list(one.steps)} for one in finding.evidence],
        "remedy": {"advice": finding.advice, "recipe": dict(finding.remedy)},
    }

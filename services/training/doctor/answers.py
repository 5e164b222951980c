"""What the doctor's routes answer, for the API's description."""

from typing import Any, Literal

from pydantic import ConfigDict

from services.training.answers import A_JOB, FineTuningJob
from services.training.doctor.diagnosis import Otherwise
from services.training.doctor.findings import Verdict
from shared.answers import Answer

JobStatus = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]


class ShownEvidence(Answer):
    """One number that a finding stands on."""

    name: str
    """What was measured, with its unit."""
    value: float
    limit: float | None
    """What it crossed, where there is a limit."""
    steps: list[int] | None
    """The first and the last step that it comes from."""


class Remedy(Answer):
    """What would help."""

    advice: str
    recipe: dict[str, Any]
    """The recipe's fields to change, with their new values."""


class DiagnosisFinding(Answer):
    """One fault."""

    verdict: Verdict
    summary: str
    evidence: list[ShownEvidence]
    remedy: Remedy


class DataForecast(Answer):
    """What twice the examples would bring."""

    examples: int
    gain: float
    """Nats by which the validation loss would fall."""
    low: float
    """The lower end of a 90 % interval."""
    high: float


class ProbedAbility(Answer):
    """Mean loss on general questions, in nats per token."""

    questions: int
    before: float
    after: float
    change_error: float | None
    """The standard error of the change."""


class Measured(Answer):
    """What a run is judged by."""

    valid_loss: float | None
    """The best of its validations; null where there was none."""
    general_ability: ProbedAbility | None
    """Null where general questions were not scored."""


class TriedRemedy(Measured):
    """A job that was started as a remedy."""

    fine_tuning_job_id: str
    verdict: Verdict
    """What it is the remedy for."""
    recipe: dict[str, Any]
    """The recipe's fields that were changed."""
    status: JobStatus
    comparable: bool
    """Whether both runs validate with equally many examples."""
    found_again: bool | None
    """Whether its own diagnosis has the verdict again; null until that can be told."""


class DiagnosisObject(Measured):
    """What a run's curves and counts say of it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "fine_tuning.diagnosis",
                    "fine_tuning_job_id": "ftjob-abc",
                    "status": "succeeded",
                    "verdict": "overfitting",
                    "findings": [
                        {
                            "verdict": "overfitting",
                            "summary": "After step 40 the validation loss rose while the training loss fell.",
                            "evidence": [
                                {
                                    "name": "rise of the validation loss, nats",
                                    "value": 0.21,
                                    "limit": 0.06,
                                    "steps": [40, 75],
                                }
                            ],
                            "remedy": {
                                "advice": "Stop earlier and hold the model back.",
                                "recipe": {"epochs": 2.0, "dropout": 0.1},
                            },
                        }
                    ],
                    "forecast": {"examples": 1600, "gain": 0.05, "low": 0.01, "high": 0.08},
                    "not_judged": ["forgetting: general questions were not scored after the run"],
                    "valid_loss": 0.52,
                    "general_ability": None,
                    "remedies": [
                        {
                            "fine_tuning_job_id": "ftjob-def",
                            "verdict": "overfitting",
                            "recipe": {"epochs": 2.0, "dropout": 0.1},
                            "status": "succeeded",
                            "valid_loss": 0.47,
                            "general_ability": None,
                            "comparable": True,
                            "found_again": False,
                        }
                    ],
                }
            ]
        }
    )

    object: Literal["fine_tuning.diagnosis"]
    fine_tuning_job_id: str
    status: JobStatus
    verdict: Verdict | Otherwise
    """The weightiest finding's, or how the run stands where nothing was found."""
    findings: list[DiagnosisFinding]
    """The weightiest first."""
    forecast: DataForecast | None
    """Null without two runs on smaller shares of the examples."""
    not_judged: list[str]
    """What could not be looked at, and why."""
    remedies: list[TriedRemedy]
    """Oldest first."""


class LearningCurve(Answer):
    """The jobs that train on a quarter and on half of the examples."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"object": "list", "data": [A_JOB]}]})

    object: Literal["list"]
    data: list[FineTuningJob]

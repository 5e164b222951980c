"""From facts to a diagnosis: every fault of the data, and the one cause that explains the curves."""

from dataclasses import dataclass
from typing import Literal

from services.training.doctor.curve_rules import CURVE_RULES
from services.training.doctor.facts import Facts
from services.training.doctor.findings import Finding
from services.training.doctor.forecast import Forecast
from services.training.doctor.measures import added_by_noise, left
from services.training.doctor.rules import DATA_RULES, MODEL_RULES

Otherwise = Literal["healthy", "too_early", "interrupted", "not_validated"]


@dataclass(frozen=True)
class Diagnosis:
    """`findings` in order of weight; none means healthy, if enough was measured to say so.

    `not_judged` says what could not be looked at, and why.
    """

    findings: tuple[Finding, ...]
    not_judged: tuple[str, ...]
    otherwise: Otherwise
    """The verdict where nothing was found."""
    forecast: Forecast | None
    """What twice the examples would bring, where runs on smaller shares tell."""

    @property
    def verdict(self) -> str:
        return self.findings[0].verdict if self.findings else self.otherwise


def diagnose(facts: Facts) -> Diagnosis:
    """Apply the rules; a pure function of what the run recorded, during it or after."""
    data = [found for rule in DATA_RULES if (found := rule(facts)) is not None]
    curve = next((found for rule in CURVE_RULES if (found := rule(facts)) is not None), None)
    model = [found for rule in MODEL_RULES if (found := rule(facts)) is not None]
    findings = (*data, *([] if curve is None else [curve]), *model)
    return Diagnosis(findings, tuple(_not_judged(facts)), _otherwise(facts), facts.forecast)


def finds(facts: Facts, verdict: str) -> bool | None:
    """Whether the run's diagnosis has this verdict; None before the run's end, and where what forgetting is judged by
    was not measured."""
    if not facts.ended or (verdict == "forgetting" and (facts.probed is None or facts.probed.change_error is None)):
        return None
    return any(finding.verdict == verdict for finding in diagnose(facts).findings)


def _otherwise(facts: Facts) -> Otherwise:
    if not facts.ended:
        return "interrupted" if facts.over else "too_early"
    return "healthy" if facts.validations else "not_validated"


def _not_judged(facts: Facts) -> list[str]:
    reasons = []
    if not facts.ended:
        told = f"it was broken off ({facts.error_code or 'cancelled'})" if facts.over else "the run is not at its end"
        reasons.append(f"whether it ended too early: {told}")
    if not facts.validations:
        reasons.append("overfitting, too little data and leaks: nothing was validated yet")
    elif not facts.validations[-1].measured_alike:
        reasons.append("over-regularisation: this run did not measure its training loss without dropout")
    elif facts.recipe.disturbs and added_by_noise(facts) is None:
        reasons.append("over-regularisation by dropout or NEFTune: this run did not measure how much loss they add")
    if facts.ended and facts.recipe.label_smoothing and left(facts) is None:
        reasons.append("whether it ended too early: the plain loss, without label smoothing, was not measured")
    if facts.probed is None:
        reasons.append("forgetting: general questions were not scored after the run")
    return reasons

"""From facts to a diagnosis: every fault of the data, and the one cause that explains the curves."""

from dataclasses import dataclass
from typing import Literal

from services.training.doctor.curve_rules import CURVE_RULES
from services.training.doctor.facts import Facts
from services.training.doctor.findings import Finding
from services.training.doctor.forecast import Forecast
from services.training.doctor.rules import DATA_RULES, MODEL_RULES


@dataclass(frozen=True)
class Diagnosis:
    """`findings` in order of weight; none means healthy, if enough was measured to say so.

    `not_judged` says what could not be looked at, and why.
    """

    findings: tuple[Finding, ...]
    not_judged: tuple[str, ...]
    otherwise: Literal["healthy", "too_early", "not_validated"]
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
    judged: Literal["healthy", "not_validated"] = "healthy" if facts.validations else "not_validated"
    return Diagnosis(findings, tuple(_not_judged(facts)), judged if facts.ended else "too_early", facts.forecast)


def _not_judged(facts: Facts) -> list[str]:
    reasons = []
    if not facts.ended:
        reasons.append("whether it ended too early: the run is not at its end")
    if not facts.validations:
        reasons.append("overfitting, too little data and leaks: nothing was validated yet")
    elif not facts.validations[-1].measured_alike:
        reasons.append("over-regularisation: this run did not measure its training loss without dropout")
    if facts.probed is None:
        reasons.append("forgetting: general questions were not scored after the run")
    return reasons

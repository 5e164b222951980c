"""Numbers in plain words, for readers who are not statisticians."""

from __future__ import annotations

from services.evaluation.metrics import METRICS
from services.evaluation.statistics import PairedDifference

_RETRIEVAL_TITLES = {"recall_at_k": "recall@k", "mrr": "MRR", "ndcg": "nDCG"}


def metric_title(name: str) -> str:
    """How a metric is called in prose."""
    if name in METRICS:
        return METRICS[name].title
    return _RETRIEVAL_TITLES.get(name, name.replace("_", " "))


def points(value: float) -> str:
    """A signed difference in percentage points, without its unit: `+4.0`, `−1.5`, `0.0`."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def p_words(p_value: float) -> str:
    """A p-value as it should be read: exact digits below a thousandth mean nothing."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def sentence(found: PairedDifference, p_holm: float, *, variant: str, baseline: str, metric: str) -> str:
    """What a comparison says, in one or two sentences."""
    title = metric_title(metric)
    interval = f"95 % interval {points(found.low)} to {points(found.high)}"
    change = f"{title} differs by {points(found.difference)} points ({interval})"
    match found.verdict(p_holm):
        case "better" | "worse" as word:
            said = f"{variant} is {word} than {baseline}: {change}, more than chance explains ({p_words(p_holm)})."
        case "equivalent":
            near = f"90 % interval {points(found.equivalence_low)} to {points(found.equivalence_high)}"
            said = (
                f"{variant} is as good as {baseline}: {title} differs by {points(found.difference)} points and "
                f"surely by less than {100 * found.margin:g} ({near})."
            )
        case _:
            said = f"This test set cannot tell {variant} from {baseline}: {change}. {_what_it_could_show(found)}"
    return said + _degenerate_note(found)


def _what_it_could_show(found: PairedDifference) -> str:
    if found.smallest_visible_difference is None:
        return "It is too small to show a difference of any size."
    visible = 100 * found.smallest_visible_difference
    return f"It would most likely have shown a true difference of {visible:.1f} points or more."


def _degenerate_note(found: PairedDifference) -> str:
    if not found.degenerate:
        return ""
    return " Every source document showed the same difference, so the interval is an exact bound."

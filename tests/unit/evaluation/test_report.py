"""The report says what the records say, refuses what cannot be compared, and renders without surprises."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from services.evaluation.report import (
    Release,
    Report,
    UnfitInputs,
    build_report,
    to_html,
    to_json,
    to_markdown,
)
from tests.unit.evaluation.simulated_report import RATES, simulated_inputs

FEW = {"resamples": 300}


@pytest.fixture(scope="module")
def report():
    return build_report(simulated_inputs(**FEW))


def with_records(inputs, name, change):
    """The inputs with one variant's records changed."""
    variants = [replace(v, records=change(v.records)) if v.name == name else v for v in inputs.variants]
    return replace(inputs, variants=variants)


def test_compares_every_variant_with_the_baseline_in_two_families(report):
    for family, metric in (("primary", "exact_match"), ("secondary", "token_f1")):
        found = [c for c in report.comparisons if c.family == family]
        assert [c.variant for c in found] == [name for name in RATES if name != "base"]
        assert {(c.baseline, c.metric) for c in found} == {("base", metric)}


def test_compares_the_winner_with_the_other_variants(report):
    found = [c for c in report.comparisons if c.family == "winner"]
    assert {(c.variant, c.baseline) for c in found} == {
        ("raft+retrieval", other) for other in ("base+prompt", "base+retrieval", "tuned")
    }


def test_reports_means_that_the_records_have(report):
    inputs = simulated_inputs(**FEW)
    for variant, given in zip(report.variants, inputs.variants, strict=True):
        scores = [record.scores["exact_match"] for record in given.records]
        assert variant.metrics["exact_match"].mean == pytest.approx(sum(scores) / len(scores))
        assert variant.metrics["exact_match"].method == "wilson"
        assert variant.tokens.completion == 8
    base, tuned = report.variants[0], report.variants[3]
    difference = tuned.metrics["exact_match"].mean - base.metrics["exact_match"].mean
    assert report.comparison("tuned").difference == pytest.approx(difference)


def test_slices_add_up_to_the_whole(report):
    for variant in report.variants:
        kinds = variant.slices["kind"].values()
        whole = variant.metrics["exact_match"]
        assert sum(kind.examples for kind in kinds) == variant.examples
        assert sum(kind.metrics["exact_match"].mean * kind.examples for kind in kinds) == pytest.approx(
            whole.mean * whole.examples
        )


def test_leaves_out_a_field_that_is_an_id():
    inputs = simulated_inputs(**FEW)
    named = [replace(v, records=[replace(r, slices={"row": r.example_id}) for r in v.records]) for v in inputs.variants]
    assert build_report(replace(inputs, variants=named)).variants[0].slices == {}


def test_splits_errors_between_retrieval_and_generation(report):
    by_name = {variant.name: variant for variant in report.variants}
    assert by_name["tuned"].errors is None
    errors = by_name["raft+retrieval"].errors
    assert errors.wrong == errors.wrong_with_gold + errors.wrong_without_gold > 0
    right = by_name["raft+retrieval"].metrics["exact_match"].mean * 120
    assert errors.wrong == pytest.approx(120 - right)


def test_shows_the_worst_regressions_with_every_answer(report):
    assert report.regressions
    for example in report.regressions:
        assert example.change == example.scores["raft+retrieval"] - example.scores["base"] == -1
        assert set(example.answers) == set(RATES)
    assert [example.change for example in report.improvements] == [1] * 5
    assert len({example.slices["kind"] for example in report.improvements}) == 3


def test_opens_the_gate_only_when_test_says_better(report):
    assert report.gate.passed
    by_chance = build_report(simulated_inputs(winner="base+retrieval", release=None, **FEW))
    assert not by_chance.gate.passed
    assert "inconclusive" in by_chance.gate.reason
    assert not build_report(simulated_inputs(winner="base", **FEW)).gate.passed
    assert not build_report(simulated_inputs(winner=None, **FEW)).gate.passed


def test_takes_its_release_once_the_winner_is_served():
    built = build_report(simulated_inputs(release=None, **FEW))
    release = Release(model="postgres-expert", variant="raft+retrieval", id="rel_1")
    assert built.release is None
    assert built.with_release(release).release == release


def test_builds_the_same_report_from_shuffled_records(report):
    inputs = simulated_inputs(**FEW)
    turned = replace(inputs, variants=[replace(v, records=v.records[::-1]) for v in inputs.variants])
    again = build_report(turned)
    for first, second in zip(report.comparisons, again.comparisons, strict=True):
        assert second.verdict == first.verdict
        assert (second.low, second.high) == pytest.approx((first.low, first.high))


def test_explains_a_comparison_without_any_difference():
    inputs = simulated_inputs(**FEW)
    same = [replace(v, records=inputs.variants[0].records) for v in inputs.variants]
    found = build_report(replace(inputs, variants=same)).comparison("tuned")
    assert found.degenerate
    assert (found.difference, found.p_holm) == (0.0, 1.0)
    assert found.low < 0 < found.high
    assert "exact bound" in found.sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: records[1:], "did not answer the same examples"),
        (lambda records: [*records, records[0]], "answered an example twice"),
        (lambda records: [replace(records[0], cluster="elsewhere"), *records[1:]], "another cluster"),
        (lambda records: [replace(records[0], scores={}), *records[1:]], "no 'exact_match'"),
    ],
)
def test_refuses_variants_that_answered_something_else(change, message):
    with pytest.raises(UnfitInputs, match=message):
        build_report(with_records(simulated_inputs(**FEW), "tuned", change))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"winner": "nobody"}, "the winner 'nobody'"),
        ({"baseline": "nobody"}, "the baseline 'nobody'"),
        ({"metric": "length"}, "cannot decide"),
        ({"metric": "repetition"}, "cannot decide"),
    ],
)
def test_refuses_names_and_metrics_that_cannot_decide(changes, message):
    with pytest.raises(UnfitInputs, match=message):
        build_report(simulated_inputs(**FEW, **changes))


def test_json_reads_back_as_the_same_report(report):
    text = to_json(report)
    assert Report.model_validate_json(text) == report
    assert not re.search(r"\b(NaN|Infinity)\b", text)


def test_json_has_every_promised_field(report):
    found = json.loads(to_json(report))
    promised = "experiment_id dataset corpus base_model seed looks_at_test variants comparisons winner release manifest"
    of_variant = "name model metrics slices latency_ms tokens train_seconds"
    of_comparison = (
        "variant baseline metric difference low high p_value p_holm verdict degenerate smallest_visible_difference"
    )
    assert set(promised.split()) <= found.keys()
    assert all(set(of_variant.split()) <= variant.keys() for variant in found["variants"])
    assert all(set(of_comparison.split()) <= comparison.keys() for comparison in found["comparisons"])
    assert found["variants"][0]["latency_ms"].keys() == {"p50", "p95"}
    assert {"prompt", "completion"} <= found["variants"][0]["tokens"].keys()


class _Page(HTMLParser):
    """Checks that tags close in order; collects text, ids and what the page would load."""

    void = frozenset({"meta", "br", "link", "img", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.ids, self.loads, self.labelled = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.labelled += (found.get("aria-labelledby") or "").split()
        self.loads += [tag] if tag in {"script", "link", "img", "iframe"} or "src" in found else []
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_html_is_one_well_formed_page_that_loads_nothing(report):
    page = _Page(to_html(report))
    assert page.open == []
    assert page.loads == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.labelled) <= set(page.ids)


def test_html_says_every_verdict_in_a_sentence_and_draws_it(report):
    text = to_html(report)
    said = " ".join(_Page(text).text)
    for comparison in report.comparisons:
        assert comparison.sentence in said
    assert text.count('class="mark"') == 4
    assert text.count('<rect x="160"') == 10  # two metrics of five variants


def test_html_shows_markup_in_answers_as_text():
    hostile = "<script>alert(1)</script>"
    inputs = with_records(
        simulated_inputs(name=hostile, **FEW), "base", lambda records: [replace(r, question=hostile) for r in records]
    )
    text = to_html(build_report(inputs))
    assert hostile not in text
    assert "&lt;script&gt;" in text


def test_markdown_keeps_its_tables_whole_whatever_answers_hold():
    inputs = with_records(
        simulated_inputs(**FEW), "tuned", lambda records: [replace(r, answer="a | b\n<b>*c*") for r in records]
    )
    lines = to_markdown(build_report(inputs)).splitlines()
    assert "<b>" not in "\n".join(lines).replace("\\<", "")
    cells = 0
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            count = len(re.findall(r"(?<!\\)\|", line))
            cells = cells if before.startswith("|") else count
            assert count == cells


def test_renders_without_corpus_choices_winner_or_other_variants():
    inputs = simulated_inputs(**FEW)
    alone = replace(
        inputs, variants=inputs.variants[:1], corpus=None, choices=(), winner=None, release=None, wall_seconds=None
    )
    built = build_report(alone)
    assert built.comparisons == []
    assert _Page(to_html(built)).open == []
    assert "No winner" in to_markdown(built)

"""The statistics against known answers and the properties that any comparison must have."""

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from services.evaluation.statistics import (
    BadSample,
    holm,
    mean_interval,
    paired_difference,
    proportion_interval,
    verdict,
)
from services.evaluation.statistics.bootstrap import (
    acceleration,
    bca_interval,
    bootstrap_limits,
    expanded_quantile,
    jackknife_means,
    resampled_means,
)
from services.evaluation.statistics.permutation import sign_flip_p_value

scores = st.sampled_from([0.0, 0.25, 0.5, 1.0])
triples = st.lists(st.tuples(scores, scores, st.sampled_from("abcdefghijkl")), min_size=1, max_size=30)
few = {"seed": 0, "resamples": 200}


def compare(rows, **options):
    treated, baseline, clusters = zip(*rows, strict=True)
    return paired_difference(treated, baseline, clusters, **(few | options))


def test_agrees_with_scipy_bca_where_every_example_is_its_own_cluster():
    values = np.random.default_rng(3).exponential(size=50)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=40_000, rng=np.random.default_rng(4)).confidence_interval
    sums, sizes = values[:, None], np.ones(50)
    draws = np.sort(resampled_means(sums, sizes, 40_000, np.random.default_rng(5)), axis=0)
    plain = acceleration(jackknife_means(sums, sizes), shrink=False)
    low, high = bca_interval(values.mean(keepdims=True), draws, plain, 1.96)
    assert [low[0], high[0]] == pytest.approx([theirs.low, theirs.high], abs=0.01)


def test_expands_the_interval_to_students_quantile_and_the_unbiased_spread():
    # the half width in bootstrap standard errors must be t(39) * sqrt(40 / 39)
    assert expanded_quantile(0.95, 40) == pytest.approx(2.0227 * math.sqrt(40 / 39), abs=1e-4)


def test_shrinks_an_acceleration_that_three_lucky_answers_could_make():
    lucky = np.zeros((40, 1))
    lucky[:3] = 1
    assert (
        acceleration(jackknife_means(lucky, np.ones(40)))[0]
        < 0.4 * (acceleration(jackknife_means(lucky, np.ones(40)), shrink=False)[0])
    )


def test_weighs_a_document_by_its_questions():
    found = compare([(1, 0, "a"), (1, 0, "a"), (1, 0, "a"), (0, 0, "b")])
    assert found.difference == pytest.approx(0.75)


def test_widens_the_interval_when_questions_of_a_document_agree():
    rng = np.random.default_rng(0)
    after = np.repeat(rng.integers(0, 2, 60), 3).astype(float)
    before = np.zeros(180)
    together = paired_difference(after, before, np.repeat(np.arange(60), 3).tolist(), seed=1)
    apart = paired_difference(after, before, list(range(180)), seed=1)
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_counts_sign_flips_by_hand():
    # sums 3, 1, -1 total 3; of the 8 sign patterns, ±(3+1-1), ±(3-1+1) and ±(3+1+1) reach that: 6 of 8
    found = compare([(1, 0, "a")] * 3 + [(1, 0, "b"), (0, 1, "c")])
    assert (found.p_value, found.p_method) == (pytest.approx(6 / 8), "exact")


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=10))
def test_convolves_to_what_enumeration_finds(sums):
    totals = [
        abs(sum(s * x for s, x in zip(signs, sums, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    expected = np.mean([total >= abs(sum(sums)) for total in totals])
    p_value, method = sign_flip_p_value(np.array(sums, dtype=float), 10, np.random.default_rng(0))
    assert (p_value, method) == (pytest.approx(expected), "exact")


def test_agrees_with_scipy_permutation_test_on_graded_scores():
    differences = np.random.default_rng(1).normal(0.3, 1, 12)
    theirs = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    p_value, method = sign_flip_p_value(differences, 10, np.random.default_rng(0))
    assert (p_value, method) == (pytest.approx(theirs), "exact")


def test_draws_sign_flips_where_there_are_too_many_and_is_never_sure():
    rng = np.random.default_rng(0)
    near, method = sign_flip_p_value(rng.normal(0.3, 1, 40), 20_000, np.random.default_rng(1))
    assert method == "monte carlo"
    assert near == pytest.approx(stats.ttest_1samp(np.random.default_rng(0).normal(0.3, 1, 40), 0).pvalue, abs=0.02)
    assert sign_flip_p_value(rng.uniform(1, 2, 40), 99, rng)[0] == 1 / 100


def test_corrects_holms_own_way():
    # 0.01 * 4, then 0.0133 * 3 raised to the one before, 0.03 * 2, 0.05 * 1 raised to 0.06
    assert holm([0.03, 0.01, 0.05, 0.0133]) == pytest.approx([0.06, 0.04, 0.06, 0.04])
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.5])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_corrects_between_the_raw_value_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for p, corrected in zip(p_values, adjusted, strict=True):
        assert p <= corrected <= min(1, p * len(p_values))
    assert [adjusted[i] for i in np.argsort(p_values, kind="stable")] == sorted(adjusted)


@given(triples)
def test_swapping_the_arms_mirrors_everything(rows):
    forth, back = compare(rows), compare([(b, a, c) for a, b, c in rows])
    assert back.difference == pytest.approx(-forth.difference)
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))
    assert (back.equivalence_low, back.equivalence_high) == pytest.approx(
        (-forth.equivalence_high, -forth.equivalence_low)
    )
    assert back.p_value == pytest.approx(forth.p_value)
    mirror = {"better": "worse", "worse": "better"}
    word = forth.verdict(forth.p_value)
    assert back.verdict(back.p_value) == mirror.get(word, word)


@given(triples, st.randoms(use_true_random=False))
def test_does_not_depend_on_the_order_of_examples(rows, random):
    shuffled = random.sample(rows, len(rows))
    first, second = asdict(compare(rows)), asdict(compare(shuffled))
    for name, value in first.items():
        assert second[name] == (pytest.approx(value) if isinstance(value, float) else value)


@given(triples)
def test_never_says_nan_and_keeps_the_limits_in_order(rows):
    found = compare(rows)
    numbers = [value for value in asdict(found).values() if isinstance(value, float)]
    assert all(math.isfinite(number) for number in numbers)
    assert -1 <= found.low <= found.equivalence_low <= found.equivalence_high <= found.high <= 1
    assert 0 < found.p_value <= 1


@given(triples)
def test_is_reproducible_from_its_seed(rows):
    assert compare(rows, seed=7) == compare(rows, seed=7)


@pytest.mark.parametrize(("treated", "limits"), [(0.0, (-0.0722, 0.0722)), (1.0, (0.8557, 1.0))])
def test_bounds_what_forty_alike_documents_leave_open(treated, limits):
    # at most 1 - 0.05 ** (1 / 40) = 7.22 % of documents can be otherwise, each by as much as the score allows
    found = paired_difference([treated] * 40, [0.0] * 40, range(40), seed=0)
    assert found.degenerate
    assert (found.low, found.high) == pytest.approx(limits, abs=1e-4)


def test_calls_identical_variants_equivalent_only_once_enough_documents_agree():
    few_alike, many_alike = (paired_difference([1.0] * n, [1.0] * n, range(n), seed=0) for n in (40, 120))
    assert few_alike.verdict(1.0) == "inconclusive"
    assert many_alike.verdict(1.0) == "equivalent"


def test_says_that_five_documents_cannot_show_anything():
    found = paired_difference([1.0] * 5, [0.0] * 5, range(5), seed=0)
    assert found.smallest_visible_difference is None
    assert found.verdict(found.p_value) == "inconclusive"


def test_knows_nothing_from_a_single_document():
    found = paired_difference([1.0, 0.0, 1.0], [0.0, 0.0, 0.0], ["one"] * 3, seed=0)
    assert found.degenerate
    assert found.low < 0 < found.high


def test_calls_nothing_equivalent_on_the_word_of_three_documents():
    found = paired_difference([0.51, 0.5, 0.5], [0.5, 0.5, 0.51], range(3), seed=0)
    assert not found.degenerate
    assert found.verdict(found.p_value) == "inconclusive"


def test_sees_smaller_differences_with_more_documents():
    rng = np.random.default_rng(0)
    treated, baseline = (rng.integers(0, 2, 400).astype(float) for _ in range(2))
    small = paired_difference(treated[:50], baseline[:50], range(50), seed=0).smallest_visible_difference
    large = paired_difference(treated, baseline, range(400), seed=0).smallest_visible_difference
    # (t(399; 0.975) + t(399; 0.8)) standard errors
    error = stats.sem(treated - baseline)
    assert large == pytest.approx((1.9659 + 0.8425) * error, rel=1e-3)
    assert small > 2 * large


limits = st.tuples(*[st.floats(-1, 1)] * 4).map(sorted)


@given(limits, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_p_value_never_turns_doubt_into_a_claim(ends, p, other):
    low, low_90, high_90, high = ends
    said = [
        verdict(p_holm=value, low=low, high=high, equivalence_low=low_90, equivalence_high=high_90, margin=0.02)
        for value in sorted((p, other))
    ]
    claims = {"better", "worse"}
    assert said[0] == said[1] or (said[0] in claims and said[1] not in claims)


@given(limits, st.floats(0, 1))
def test_never_claims_a_side_that_the_interval_does_not_hold(ends, p):
    low, low_90, high_90, high = ends
    said = verdict(p_holm=p, low=low, high=high, equivalence_low=low_90, equivalence_high=high_90, margin=0.02)
    assert said != "better" or (p <= 0.05 and low > 0)
    assert said != "worse" or (p <= 0.05 and high < 0)
    assert said != "equivalent" or (low_90 > -0.02 and high_90 < 0.02)


def test_gives_wilsons_interval_for_a_share():
    # Wilson 1927 by hand for 0 of 10: high = z^2 / (n + z^2)
    assert proportion_interval(0, 10) == pytest.approx((0, 3.8415 / 13.8415), abs=1e-4)
    found = mean_interval([1.0, 0.0, 1.0, 1.0], list("aabb"), proportion=True, seed=0)
    assert (found.method, found.mean) == ("wilson", 0.75)
    assert (found.low, found.high) == proportion_interval(3, 4)


def test_bootstraps_documents_for_a_graded_mean():
    values = np.random.default_rng(0).random(90)
    found = mean_interval(values, np.repeat(np.arange(30), 3).tolist(), proportion=False, seed=0)
    assert found.method == "bootstrap"
    assert found.low < values.mean() < found.high


def test_bounds_a_mean_of_equal_scores_only_where_scores_are_bounded():
    bounded = mean_interval([0.0] * 40, range(40), proportion=False, seed=0)
    open_ended = mean_interval([4.0] * 40, range(40), proportion=False, seed=0, bounds=None)
    assert (bounded.method, bounded.high) == ("exact", pytest.approx(0.0722, abs=1e-4))
    assert (open_ended.method, open_ended.low, open_ended.high) == ("none", 4.0, 4.0)


@pytest.mark.parametrize(
    ("treated", "baseline", "clusters", "message"),
    [
        ([], [], [], "non-empty"),
        ([1.0], [1.0, 0.0], ["a"], "a pair needs one of each"),
        ([1.0], [1.0], ["a", "b"], "cluster names"),
        ([math.nan], [1.0], ["a"], "value 0 is nan"),
    ],
)
def test_refuses_samples_it_cannot_pair(treated, baseline, clusters, message):
    with pytest.raises(BadSample, match=message):
        paired_difference(treated, baseline, clusters, seed=0)


def test_refuses_graded_scores_as_a_share():
    with pytest.raises(BadSample, match="proportion=False"):
        mean_interval([0.5], ["a"], proportion=True, seed=0)


def test_simulations_run_the_same_code_as_a_comparison():
    rng = np.random.default_rng(0)
    differences = rng.integers(-1, 2, 60).astype(float)
    found = paired_difference(differences, np.zeros(60), [f"{i:02}" for i in range(60)], seed=9, resamples=500)
    stream = np.random.default_rng(np.random.SeedSequence(9).spawn(2)[0])
    [(low, high)] = bootstrap_limits(differences[:, None], np.ones(60), [0.95], 500, stream)
    assert (found.low, found.high) == (low[0], high[0])

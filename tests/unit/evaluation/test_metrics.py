"""The metrics against worked examples and the properties that hold for any text."""

from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.metrics import METRICS, normalise, score_answer, score_retrieval
from services.evaluation.metrics.rouge_l import longest_common_subsequence

words = st.lists(st.sampled_from(["lamp", "clock", "kettle"]), max_size=7)
texts = st.text(max_size=40) | st.lists(st.sampled_from(["the", "a", "-1", "on", "*", "1.0", "kB"])).map(" ".join)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Only at server start.", "only at  server start"),
        ("The “default” value", "'default' value"),
        ("1,000", "1000"),
        ("−1", "-1"),
        ("(3.5)", "3.5."),
        ("ｆｕｌｌ width", "full width"),
    ],
)
def test_calls_two_spellings_of_one_answer_equal(first, second):
    assert normalise(first) == normalise(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [("1.0", "10"), ("-1", "1"), ("1-2", "12"), ("*", "%"), ("A", "B"), ("0.5", "5"), ("12:30", "1230"), ("", "*")],
)
def test_keeps_different_answers_apart(first, second):
    assert normalise(first) != normalise(second)


@given(texts)
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@given(texts)
def test_scores_an_answer_equal_to_its_reference_fully(text):
    scores = score_answer(text, text)
    assert [scores[name] for name in ("exact_match", "token_f1", "rouge_l")] == [1.0, 1.0, 1.0]


@given(texts, texts)
def test_scores_every_metric_within_its_range(reference, answer):
    for name, score in score_answer(reference, answer).items():
        assert score >= 0
        assert score <= 1 or not METRICS[name].share


@given(texts, texts)
def test_rewards_order_never_more_than_the_words_alone(reference, answer):
    scores = score_answer(reference, answer)
    assert scores["rouge_l"] <= scores["token_f1"] + 1e-12
    assert scores["exact_match"] <= scores["token_f1"]


def test_agrees_with_a_worked_token_f1_and_rouge_l():
    # shared words: police, killed, gunman; longest common subsequence: police killed (Lin 2004, section 3)
    scores = score_answer("police killed gunman", "gunman police killed")
    assert scores["token_f1"] == 1.0
    assert scores["rouge_l"] == pytest.approx(2 / 3)
    assert score_answer("only at server start", "at start")["token_f1"] == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_finds_the_longest_common_subsequence():
    assert longest_common_subsequence("ABCBDAB", "BDCABA") == 4


@given(words, words)
def test_the_longest_common_subsequence_is_that_of_the_definition(first, second):
    def longest(one, other):
        if not one or not other:
            return 0
        if one[0] == other[0]:
            return 1 + longest(one[1:], other[1:])
        return max(longest(one[1:], other), longest(one, other[1:]))

    assert longest_common_subsequence(first, second) == longest(first, second)


def test_gives_chrf_partial_credit_for_a_near_miss():
    near, far = (score_answer("postmaster", answer)["chrf"] for answer in ("postmasters", "user"))
    assert 1 > near > 0.5 > far
    assert score_answer("postmaster", "postmaster")["chrf"] == 1.0


def test_measures_how_much_a_looping_answer_repeats():
    assert score_answer("", "on off on off on off")["repetition"] == pytest.approx(1 - 2 / 5)
    assert score_answer("", "each word is new")["repetition"] == 0.0


def test_scores_a_ranking_by_hand():
    scores = score_retrieval(["a", "b"], ["x", "a", "y", "b"], k=4)
    ideal = 1 + 1 / log2(3)
    assert scores == pytest.approx({"recall_at_k": 1.0, "mrr": 0.5, "ndcg": (1 / log2(3) + 1 / log2(5)) / ideal})


def test_counts_a_document_once_however_many_of_its_passages_are_ranked():
    assert score_retrieval(["a"], ["a", "a", "a"], k=3) == {"recall_at_k": 1.0, "mrr": 1.0, "ndcg": 1.0}


def test_sees_only_the_first_k_places():
    assert score_retrieval(["a"], ["x", "y", "a"], k=2) == {"recall_at_k": 0.0, "mrr": 0.0, "ndcg": 0.0}


def test_measures_no_retrieval_without_a_gold_document():
    assert score_retrieval([], ["a"], k=1) == {}
    with pytest.raises(ValueError, match="k is 0"):
        score_retrieval(["a"], ["a"], k=0)


@given(st.sets(st.sampled_from("abcdef"), min_size=1), st.permutations("abcdef"), st.integers(1, 6))
def test_ranks_gold_first_best_of_all(gold, ranked, k):
    best = score_retrieval(sorted(gold), sorted(ranked, key=lambda key: key not in gold), k)
    found = score_retrieval(sorted(gold), ranked, k)
    assert best["ndcg"] == pytest.approx(1.0)
    assert all(0 <= found[name] <= best[name] + 1e-12 for name in found)

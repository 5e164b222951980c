"""Scoring by words and by meaning."""

from hypothesis import given
from hypothesis import strategies as st

from services.retrieval.ranking import Candidate, Collection, rank

WORDS = ["wal_level", "valu", "type"]
COLLECTION = Collection(passages=100, mean_tokens=80.0, frequency={"wal_level": 2, "valu": 60, "type": 90})

candidates = st.lists(
    st.builds(
        Candidate,
        id=st.text("abc", min_size=1, max_size=4),
        tokens=st.integers(1, 300),
        similarity=st.floats(-1, 1),
        times=st.dictionaries(st.sampled_from(WORDS), st.integers(0, 9)),
        titled=st.frozensets(st.sampled_from(WORDS)),
    ),
    max_size=8,
    unique_by=lambda one: one.id,
)


@given(candidates, st.sampled_from(["hybrid", "dense", "text"]))
def test_ranks_every_candidate_once_best_first_ties_by_id(found: list[Candidate], mode: str) -> None:
    ranked = rank(found, WORDS, COLLECTION, mode)
    assert sorted(name for name, _ in ranked) == sorted(one.id for one in found)
    assert ranked == sorted(ranked, key=lambda item: (-item[1], item[0]))
    assert ranked == rank(found[::-1], WORDS, COLLECTION, mode)


@given(candidates)
def test_scores_between_nothing_and_one(found: list[Candidate]) -> None:
    assert all(0.0 <= score <= 1.0 for _, score in rank(found, WORDS, COLLECTION, "hybrid"))


def test_lets_one_rare_identifier_win_over_many_common_words() -> None:
    rare = Candidate("rare", 80, 0.3, {"wal_level": 1})
    common = Candidate("common", 80, 0.4, {"valu": 5, "type": 5})
    assert rank([common, rare], WORDS, COLLECTION, "hybrid")[0][0] == "rare"


def test_prefers_the_document_about_a_word_to_one_that_mentions_it() -> None:
    about = Candidate("z-about", 80, 0.0, {"wal_level": 1}, frozenset({"wal_level"}))
    mention = Candidate("a-mention", 80, 0.0, {"wal_level": 1})
    assert rank([mention, about], WORDS, COLLECTION, "text")[0][0] == "z-about"


def test_counts_a_repeated_word_less_each_time() -> None:
    def score(times: int) -> float:
        most = Candidate("most", 80, 0.0, {"wal_level": 50})
        return dict(rank([most, Candidate("one", 80, 0.0, {"wal_level": times})], WORDS, COLLECTION, "text"))["one"]

    assert score(1) < score(2) < score(4)
    assert score(2) - score(1) > score(3) - score(2)


def test_lets_meaning_decide_where_the_store_knows_few_of_the_words() -> None:
    asked = [*WORDS, "unheard", "unseen", "unknown"]
    close = Candidate("close", 80, 0.8)
    worded = Candidate("worded", 80, 0.1, {"type": 1})
    assert rank([close, worded], asked, COLLECTION, "hybrid")[0][0] == "close"


def test_answers_nothing_for_nothing() -> None:
    assert rank([], WORDS, COLLECTION, "hybrid") == []
    assert rank([Candidate("a", 1, 0.5)], [], Collection(0, 0.0, {}), "text") == [("a", 0.0)]

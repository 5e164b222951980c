"""RAFT rows look the way serving will see them, and never show what a later split asks about."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.data.domain import Example, Message, Placed, Split
from services.data.raft import Gold, choose_rows, compose, find_gold, hidden_documents, keeps_gold, subsample
from shared.prompt_format import Passage

thorough = settings(max_examples=60)


def passage(document: str, text: str = "text", number: int = 0) -> Passage:
    name = f"{document}#{number}"
    return Passage(id=name, document_id=document, document=document, title=document, text=text)


def example(document: str = "gold.md", answer: str = "42", kind: str = "k", question: str = "q") -> Example:
    return Example((Message("user", question),), answer, (document,) if document else (), {"kind": kind})


FOUND = [passage(name) for name in ("a.md", "b.md", "c.md", "d.md")]
GOLD = Gold(frozenset({"gold.md"}), (passage("gold.md", "it is 42"),))


def shown(row: Example) -> list[str]:
    return [one["document"] for one in row.passages or ()]


def test_shows_the_top_k_as_retrieved_when_gold_is_among_them() -> None:
    found = [FOUND[0], GOLD.passages[0], *FOUND[1:]]
    row = compose(example(), found, GOLD, k=3, keep_gold=True, hidden=frozenset(), seed=0)
    assert shown(row) == ["a.md", "gold.md", "b.md"]
    assert row.provenance == {"gold": "retrieved", "gold_rank": 1, "hidden_passages": 0}


def test_adds_gold_at_any_rank_when_retrieval_missed_it() -> None:
    ranks: Counter[int] = Counter()
    for number in range(300):
        asked = example(question=f"q{number}")
        row = compose(asked, FOUND, GOLD, k=3, keep_gold=True, hidden=frozenset(), seed=0)
        assert sorted(shown(row)) == ["a.md", "b.md", "gold.md"]
        assert row.provenance["gold"] == "added"
        ranks[row.provenance["gold_rank"]] += 1
    assert set(ranks) == {0, 1, 2}
    assert min(ranks.values()) > 60


def test_withholds_gold_and_fills_up_with_distractors() -> None:
    found = [GOLD.passages[0], *FOUND]
    row = compose(example(), found, GOLD, k=3, keep_gold=False, hidden=frozenset(), seed=0)
    assert (shown(row), row.provenance["gold"]) == (["a.md", "b.md", "c.md"], "withheld")


def test_leaves_validation_rows_as_retrieved() -> None:
    row = compose(example(), FOUND, GOLD, k=2, keep_gold=None, hidden=frozenset(), seed=0)
    assert (shown(row), row.provenance["gold"], row.provenance["gold_rank"]) == (["a.md", "b.md"], "missing", None)


@thorough
@given(
    st.lists(st.sampled_from("abcdefg"), unique=True),
    st.frozensets(st.sampled_from("abcdefg")),
    st.integers(1, 4),
    st.sampled_from([True, False, None]),
)
def test_never_shows_hidden_documents_nor_more_than_k(
    found: list[str], hidden: frozenset[str], k: int, keep: bool | None
) -> None:
    row = compose(example(), [passage(n) for n in found], GOLD, k=k, keep_gold=keep, hidden=hidden, seed=1)
    assert len(shown(row)) <= k
    assert not hidden & set(shown(row))
    without_gold = [name for name in shown(row) if name != "gold.md"]
    assert without_gold == [name for name in found if name in without_gold]


def test_says_unknown_where_no_gold_document_is_named() -> None:
    nothing = Gold(frozenset(), ())
    row = compose(example(""), FOUND, nothing, k=2, keep_gold=True, hidden=frozenset(), seed=0)
    assert (shown(row), row.provenance["gold"]) == (["a.md", "b.md"], "unknown")


def test_gold_is_the_passage_that_holds_the_answer() -> None:
    passages = {"gold.md": [passage("gold.md", "before", 0), passage("gold.md", "The default is  Forty Two.", 1)]}
    assert [p.id for p in find_gold(example(answer="forty two"), passages).passages] == ["gold.md#1"]
    assert len(find_gold(example(answer="seven"), passages).passages) == 2
    assert find_gold(example("elsewhere.md"), passages).passages == ()


def rows(count: int, split: Split) -> list[Placed]:
    kinds = ["often"] * 6 + ["seldom"] * 3 + ["rare"]
    return [
        Placed(example(f"{split}{n}.md", kind=kinds[n % 10], question=f"{split}{n}"), split, f"{split}{n}.md")
        for n in range(count)
    ]


def test_samples_every_kind_by_its_share() -> None:
    chosen = subsample(rows(200, "train"), 41, seed=0)
    assert len(chosen) == 41
    counts = Counter(one.example.kind for one in chosen)
    assert (counts["often"] in {24, 25}, counts["seldom"] in {12, 13}, counts["rare"] in {4, 5}) == (True,) * 3


@pytest.mark.parametrize("limit", [1, 7, 200, 1000])
def test_samples_the_same_rows_for_the_same_seed(limit: int) -> None:
    every = rows(200, "train")
    one = subsample(every, limit, seed=5)
    assert one == subsample(every, limit, seed=5)
    assert len(one) == min(limit, 200)
    assert limit >= 200 or one != subsample(every, limit, seed=6)


def test_keeps_gold_in_exactly_the_share_asked_for() -> None:
    assert len(keeps_gold(rows(240, "train"), 0.9, seed=0)) == 216
    assert keeps_gold(rows(10, "train"), 0.0, seed=0) == set()


def test_chooses_no_test_rows_and_hides_what_later_splits_ask_about() -> None:
    every = [*rows(100, "train"), *rows(30, "validation"), *rows(40, "test")]
    chosen = choose_rows(every, 60, seed=0)
    assert Counter(one.split for one in chosen) == {"train": 60, "validation": 24}
    assert len(hidden_documents(every, "train")) == 70
    assert len(hidden_documents(every, "validation")) == 40

"""Duplicates: repeats go, rewordings are found, templates that differ in a name are left alone."""

import random

import pytest

from services.data.clusters import cluster_names
from services.data.domain import Example, Message
from services.data.duplicates import drop_exact, near_pairs


def ask(question: str, answer: str = "a", *documents: str, line: int = 0) -> Example:
    return Example((Message("user", question),), answer, documents, line=line)


def found(examples: list[Example]) -> set[tuple[int, int]]:
    return {(pair.first, pair.second) for pair in near_pairs(examples)}


WORDS = [a + b + c for a in "bdfglmnprst" for b in "aeiou" for c in ("mol", "ver", "nix", "dar", "lop", "tis")]


def chatter(count: int, seed: int = 0) -> list[Example]:
    """Unrelated questions, so that words have the rarity they have in real data."""
    dice = random.Random(seed)
    return [ask("How do I " + " ".join(dice.sample(WORDS, 6)), str(n)) for n in range(count)]


def test_drops_repeats_keeps_the_first_and_unites_their_documents() -> None:
    rows = [
        ask("What is x?", "1", "a.md", line=1),
        ask("what is  X", "1", "b.md", line=2),
        ask("What is x?", "2", line=3),
    ]
    kept, repeats = drop_exact(rows)
    assert [(e.line, e.documents) for e in kept] == [(1, ("a.md", "b.md")), (3, ())]
    assert [(r.line, r.same_as) for r in repeats] == [(2, 1)]


def test_keeps_signs_that_are_not_words_apart() -> None:
    kept, _ = drop_exact([ask("+"), ask("-"), ask("+")])
    assert [e.question for e in kept] == ["+", "-"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I reset the password of my router?", "How can I reset the password of my router?"),
        ("Which warranty covers a broken display hinge?", "which warranty covers a broken display  hinge"),
        ("What does the yearly service of the boiler cost me?", "What does a yearly service of the boiler cost me?"),
    ],
)
def test_finds_rewordings(one: str, other: str) -> None:
    assert found([*chatter(60), ask(one), ask(other)]) == {(60, 61)}


@pytest.mark.parametrize(
    "template",
    [
        "What type of value does the PostgreSQL parameter {} take?",
        "Who discovered {}?",
        "In the service agreement between our company and the supplier named {}, which law governs the contract "
        "and where do the parties meet in court if they cannot agree on the meaning of one of its many terms?",
    ],
)
@pytest.mark.parametrize("with_documents", [True, False])
def test_does_not_call_questions_of_one_template_duplicates(template: str, with_documents: bool) -> None:
    things = WORDS[:150]
    rows = [ask(template.format(thing), "a", *([f"{thing}.md"] if with_documents else [])) for thing in things]
    assert found(rows) == set()
    assert len(set(cluster_names(rows, near_pairs(rows)))) == len(things)


def test_tells_numbers_and_identifiers_apart() -> None:
    rows = [ask(f"What does error code {n} of the pump controller mean?") for n in (501, 502)]
    rows += [ask(f"What does setting {name} of the pump controller mean?") for name in ("max_flow", "min_flow")]
    assert found([*rows, *chatter(60)]) == set()


def test_trusts_different_gold_documents_unless_the_words_are_the_same() -> None:
    one, other = "How is the front axle of the tractor greased?", "How is a front axle of the tractor greased?"
    assert found([*chatter(60), ask(one, "a", "x.md"), ask(other, "a", "y.md")]) == set()
    assert found([*chatter(60), ask(one, "a", "x.md"), ask(other, "a", "x.md")]) == {(60, 61)}
    assert found([*chatter(60), ask(one, "a", "x.md"), ask(one, "b", "y.md")]) == {(60, 61)}


def test_says_whether_near_duplicates_agree() -> None:
    base = chatter(60)
    pairs = near_pairs([*base, ask(base[0].question + " now", "0"), ask(base[1].question + " now", "other")])
    assert [(pair.first, pair.second, pair.same_answer) for pair in pairs] == [(0, 60, True), (1, 61, False)]


def test_calls_the_beat_between_batches() -> None:
    beats = []
    near_pairs(chatter(2500), lambda: beats.append(1))
    assert len(beats) == 3


def test_joins_examples_transitively_by_document_and_question() -> None:
    rows = [
        ask("one", "a", "x.md"),
        ask("two", "a", "x.md", "y.md"),
        ask("three", "a", "y.md"),
        ask("four", "a", "z.md"),
        ask("Three!", "b"),
        ask("five"),
    ]
    names = cluster_names(rows, [])
    assert names[:5] == ["x.md", "x.md", "x.md", "z.md", "x.md"]
    assert names[5].startswith("question:")

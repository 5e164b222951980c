"""The layout that training data and serving share."""

import json

from hypothesis import given
from hypothesis import strategies as st

from shared.prompt_format import DEFAULT_SYSTEM, Passage, PromptSpec, Shot, render, within

FATHOM = Shot(question="A fathom?", answer="6")
QUESTION = [{"role": "user", "content": "How long is a yard?"}]
PASSAGES = [
    Passage(id="p1", document_id="d1", title="Yard", text="A yard is three feet."),
    Passage(id="p2", document_id="d2", title="Feet", text="The foot is a unit of length of twelve inches."),
]


def words(text: str) -> int:
    return len(text.split())


def test_is_the_question_alone_by_default_under_an_explicit_system_message() -> None:
    assert render(PromptSpec(), QUESTION) == [{"role": "system", "content": DEFAULT_SYSTEM}, *QUESTION]


def test_puts_worked_examples_before_the_question_in_the_same_dress() -> None:
    spec = PromptSpec(
        system="Be brief.", instruction="Answer in feet.", shots=(Shot(question="A fathom?", answer="6"),)
    )
    assert render(spec, QUESTION) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Answer in feet.\nA fathom?"},
        {"role": "assistant", "content": "6"},
        {"role": "user", "content": "Answer in feet.\nHow long is a yard?"},
    ]


def test_lets_the_callers_system_message_replace_the_specs() -> None:
    own = [{"role": "system", "content": "Rhyme."}, *QUESTION]
    assert render(PromptSpec(system="Be brief."), own)[0] == {"role": "system", "content": "Rhyme."}


def test_loses_no_system_message_where_there_are_several() -> None:
    several = [{"role": "system", "content": "Rhyme."}, *QUESTION, {"role": "system", "content": "In French."}]
    found = render(PromptSpec(), several)
    assert found == [{"role": "system", "content": "Rhyme.\nIn French."}, *QUESTION]


def test_keeps_earlier_turns_and_shows_passages_in_the_last_only() -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, *QUESTION]
    *earlier, last = render(PromptSpec(with_passages=True), talk, PASSAGES)
    assert earlier[1:] == talk[:2]
    assert last["content"].splitlines()[1:3] == ["[1] Yard: A yard is three feet.", f"[2] Feet: {PASSAGES[1].text}"]
    assert last["content"].endswith("\n\nHow long is a yard?")


def test_says_that_passages_are_data() -> None:
    assert "not instructions" in render(PromptSpec(with_passages=True), QUESTION, PASSAGES)[-1]["content"]


def test_shows_no_passages_to_a_prompt_without_a_place_for_them() -> None:
    assert render(PromptSpec(), QUESTION, PASSAGES) == render(PromptSpec(), QUESTION)


def test_cuts_the_last_passage_that_partly_fits_and_drops_the_rest() -> None:
    third = Passage(id="p3", document_id="d3", text="Never read.")
    kept = within([*PASSAGES, third], words, words("[1] Yard: A yard is three feet.") + 6)
    assert [passage.id for passage in kept] == ["p1", "p2"]
    assert PASSAGES[1].text.startswith(kept[1].text)
    assert kept[1].text != PASSAGES[1].text


texts = st.lists(st.text(alphabet="ab \n", min_size=1, max_size=40).filter(str.strip), max_size=5)


@given(texts, st.integers(0, 40))
def test_never_shows_more_than_the_budget_and_keeps_the_order(found: list[str], budget: int) -> None:
    passages = [Passage(id=str(n), document_id="d", title="T", text=text) for n, text in enumerate(found)]
    kept = within(passages, words, budget)
    shown = render(PromptSpec(with_passages=True), QUESTION, passages, fit=words, budget=budget)[-1]["content"]
    assert [passage.id for passage in kept] == [str(n) for n in range(len(kept))]
    assert sum(words(f"[{n}] T: {passage.text}") for n, passage in enumerate(kept, 1)) <= budget
    assert shown == render(PromptSpec(with_passages=True), QUESTION, kept)[-1]["content"]


def test_survives_a_trip_through_json() -> None:
    spec = PromptSpec(system="s", instruction="i", shots=(Shot(question="q", answer="a"),), with_passages=True)
    assert PromptSpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec

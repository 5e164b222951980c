"""Graders: the metrics against values worked out by hand, and how a model's verdict is read."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from services.evaluation.errors import MissingVariable, UnreadableJudgement
from services.evaluation.evals.domain import Usage
from services.evaluation.evals.graders import CosineGrader, DirectGrader, grader
from services.evaluation.evals.graders.label_model import LabelModelGrader, read_label
from services.evaluation.evals.graders.score_model import ScoreModelGrader, read_score
from services.evaluation.evals.graders.string_check import holds
from services.evaluation.evals.graders.text_similarity import METRICS
from services.evaluation.evals.schemas import Criterion
from services.evaluation.metrics import METRICS as OURS

ADAPTER: TypeAdapter[Criterion] = TypeAdapter(Criterion)
SCOPE = {"item": {"answer": "Paris"}, "sample": {"output_text": "paris"}}
BOTH = {"input": "{{sample.output_text}}", "reference": "{{item.answer}}"}


def made(**fields: Any) -> Any:
    return grader(ADAPTER.validate_python({"name": "g"} | fields))


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "text": text, "finish_reason": "stop"} | {
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    }


@pytest.mark.parametrize(
    ("operation", "text", "reference", "passes"),
    [
        ("eq", "a", "a", True),
        ("eq", "a", "A", False),
        ("eq", "a ", "a", False),
        ("ne", "a", "A", True),
        ("ne", "a", "a", False),
        ("like", "the answer is Paris.", "Paris", True),
        ("like", "the answer is paris.", "Paris", False),
        ("like", "Paris", "the answer is Paris.", False),
        ("like", "100%", "1_0%", False),  # no wildcards
        ("ilike", "the answer is paris.", "PARIS", True),
        ("ilike", "STRASSE", "straße", True),
    ],
)
def test_string_checks_do_what_openai_documents(operation: str, text: str, reference: str, passes: bool) -> None:
    assert holds(operation, text, reference) is passes


def test_a_string_check_grades_what_its_templates_say() -> None:
    grade = made(type="string_check", operation="ilike", **BOTH).grade(SCOPE)
    assert (grade.passed, grade.score) == (True, 1.0)
    assert made(type="string_check", operation="eq", **BOTH).grade(SCOPE).score == 0.0
    with pytest.raises(MissingVariable):
        made(type="string_check", operation="eq", **BOTH).grade({"item": {}})


@pytest.mark.parametrize(
    ("metric", "reference", "answer", "score"),
    [
        # 4 of 6 characters stay: 1 - (1 + 1) / 6
        ("fuzzy_match", "abc", "abd", 2 / 3),
        # both words and the pair are there; the brevity penalty is exp(1 - 4 / 2)
        ("bleu", "the cat sat on", "the cat", math.exp(-1)),
        # 6 of the answer's 6 n-grams, of the reference's 4 + 3 + 2 + 1
        ("gleu", "a b c d", "a b c", 0.6),
        # 4 matches in 2 pieces: 1 - 0.5 (2 / 4)^3
        ("meteor", "one two three four", "three four one two", 0.9375),
        # both match by their stems, in one piece: 1 - 0.5 (1 / 2)^3
        ("meteor", "cats sit", "cat sits", 0.9375),
        # P = 2 / 3, R = 1 / 4: 10 P R / (R + 9 P) = 4 / 15; in one piece: times 1 - 0.5 / 8
        ("meteor", "one two three four five six seven eight", "one two nine", 0.25),
        ("meteor", "one", "two", 0.0),
        ("rouge_1", "red green blue", "red green yellow", 2 / 3),
        ("rouge_2", "red green blue", "red green yellow", 0.5),
        ("rouge_3", "red green blue", "red green blue black", 2 / 3),
        ("rouge_4", "red green blue", "red green blue", 1.0),  # too short for a 4-gram, but the same
        ("rouge_5", "red green blue", "one two three four five", 0.0),
        # repetitions count once for each in the other: 2 shared of 3 + 2
        ("rouge_1", "red red", "red red red", 0.8),
        ("rouge_l", "red green blue", "red blue green", 2 / 3),
        ("exact_match", "The answer is 4.", "answer is 4", 1.0),  # once both are normalised
        ("exact_match", "4", "5", 0.0),
        # 2 shared words of 3 + 4, whatever their order
        ("token_f1", "red green blue", "blue red white grey", 4 / 7),
        # P and R over n-grams of 1 and 2 characters: (1 / 2 + 0) / 2, so F is that too
        ("chrf", "ab", "ac", 0.25),
    ],
)
def test_metrics_give_what_a_hand_works_out(metric: str, reference: str, answer: str, score: float) -> None:
    assert METRICS[metric](reference, answer) == pytest.approx(score, abs=1e-9)


@settings(max_examples=60)
@given(st.sampled_from(sorted(METRICS)), st.text(), st.text())
def test_every_metric_lies_between_0_and_1(metric: str, reference: str, answer: str) -> None:
    assert 0 <= METRICS[metric](reference, answer) <= 1


@settings(max_examples=60)
@given(st.sampled_from(sorted(set(METRICS) - {"meteor"})), st.text())
def test_equal_texts_are_as_alike_as_can_be(metric: str, text: str) -> None:
    assert METRICS[metric](text, text) == pytest.approx(1)


def test_a_similarity_takes_every_metric_of_our_evaluations_that_compares_two_texts() -> None:
    compare = {name for name, metric in OURS.items() if metric.share and metric.more_is_better}
    assert compare == {"exact_match", "token_f1", "rouge_l", "chrf"}
    for name in compare:
        judge = made(type="text_similarity", evaluation_metric=name, pass_threshold=0, **BOTH)
        assert judge.grade(SCOPE).score == OURS[name].score("Paris", "paris")


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_a_similarity_passes_from_its_threshold_on(metric: str) -> None:
    scope = {"item": {"answer": "one two three four"}, "sample": {"output_text": "one two three five"}}
    fields = {"type": "text_similarity", "evaluation_metric": metric, **BOTH}
    score = made(pass_threshold=0, **fields).grade(scope).score
    assert 0 <= score < 1
    assert made(pass_threshold=score, **fields).grade(scope).passed is True
    assert made(pass_threshold=score + 1e-6, **fields).grade(scope).passed is False


@pytest.mark.parametrize(
    ("first", "second", "score"),
    [([0.6, 0.8], [0.6, 0.8], 1.0), ([1.0, 0.0], [0.0, 1.0], 0.0), ([1.0, 0.0], [-1.0, 0.0], 0.0)],
)
def test_cosine_compares_the_two_vectors(first: list[float], second: list[float], score: float) -> None:
    judge = made(type="text_similarity", evaluation_metric="cosine", pass_threshold=0.5, **BOTH)
    assert isinstance(judge, CosineGrader)
    assert judge.texts(SCOPE) == ["paris", "Paris"]
    grade = judge.grade([first, second], Usage("embedder", 7))
    assert grade.score == pytest.approx(score)
    assert grade.passed is (score >= 0.5)
    assert grade.usage == Usage("embedder", 7, 0)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("7", 7),
        (" 7.5\n", 7.5),
        ("0", 0),
        ('{"result": 3}', 3),
        ('{"steps": [1, 2], "score": 4.5}', 4.5),
        ("Score: 8.", 8),
        ("I give it 6, yes: 6", 6),
        ("1e1", 10),
    ],
)
def test_a_score_is_read_where_the_model_said_one_number(text: str, score: float) -> None:
    assert read_score(text, 0, 10) == score


@pytest.mark.parametrize(
    "text", ["", "good", "8/10", "between 3 and 4", "11", "-1", "NaN", "true", '{"result": "x"}', "1.2.3", "v2"]
)
def test_a_score_is_never_guessed(text: str) -> None:
    with pytest.raises(UnreadableJudgement):
        read_score(text, 0, 10)


@given(st.floats(min_value=-5, max_value=5))
def test_every_number_in_range_is_read_as_it_was_said(score: float) -> None:
    assert read_score(repr(score), -5, 5) == score


@pytest.mark.parametrize(
    ("text", "label"),
    [("good", "good"), ('"good"', "good"), (" Good. ", "good"), ("**bad**", "bad"), ("very bad", "very bad")],
)
def test_a_label_is_read_whatever_stands_around_it(text: str, label: str) -> None:
    assert read_label(text, ["good", "bad", "very bad"]) == label


@pytest.mark.parametrize("text", ["", "ugly", "not good", "good or bad", "5", '["good"]'])
def test_a_label_is_never_guessed(text: str) -> None:
    with pytest.raises(UnreadableJudgement):
        read_label(text, ["good", "bad"])


def test_labels_that_differ_by_case_alone_are_told_apart() -> None:
    assert read_label("A", ["a", "A"]) == "A"
    assert read_label("a.", ["a", "A"]) == "a"


def test_a_scoring_model_is_held_to_the_range_and_asked_greedily() -> None:
    judge = made(type="score_model", model="m", range=[1, 5], input=[{"role": "user", "content": "{{item.answer}}"}])
    assert isinstance(judge, ScoreModelGrader)
    body = judge.body(SCOPE)
    assert body["json_schema"] == '{"type": "number", "minimum": 1.0, "maximum": 5.0}'
    assert (body["temperature"], body["seed"], body["stream"]) == (0.0, 42, False)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][1]["content"] == "Paris"
    grade = judge.grade(body, said("3"))
    assert (grade.passed, grade.score, grade.usage) == (True, 3.0, Usage("m", 3, 2))  # the middle of the range passes
    assert judge.grade(body, said("2.9")).passed is False
    unread = judge.grade(body, said("6"))
    assert (unread.passed, unread.score) == (None, None)
    assert unread.error is not None
    assert "within 1 to 5" in unread.error["message"]


@pytest.mark.parametrize("limit", ["max_completions_tokens", "max_completion_tokens"])
def test_sampling_of_a_scoring_model_is_the_clients_own(limit: str) -> None:
    sampling = {"temperature": 0.5, "top_p": 0.9, "seed": 1, limit: 9}
    fields = {"type": "score_model", "model": "m", "sampling_params": sampling}
    body = made(input=[{"role": "developer", "content": "Be strict."}], **fields).body(SCOPE)
    assert (body["temperature"], body["top_p"], body["seed"], body["max_tokens"]) == (0.5, 0.9, 1, 9)
    assert body["messages"] == [
        {"role": "system", "content": "Be strict.\n\nAnswer with one number from 0 to 1 and nothing else."}
    ]


def test_a_labelling_model_is_held_to_its_labels() -> None:
    judge = made(
        type="label_model",
        model="m",
        labels=["good", "bad"],
        passing_labels=["good"],
        input=[{"role": "user", "content": {"type": "input_text", "text": "{{sample.output_text}}"}}],
    )
    assert isinstance(judge, LabelModelGrader)
    body = judge.body(SCOPE)
    assert body["json_schema"] == '{"type": "string", "enum": ["good", "bad"]}'
    assert "good, bad" in body["messages"][0]["content"]
    assert judge.grade(body, said('"good"')).passed is True
    failed = judge.grade(body, said("bad"))
    assert (failed.passed, failed.score) == (False, 0.0)
    assert failed.sample is not None
    assert failed.sample["label"] == "bad"
    assert judge.grade(body, said("ugly")).error is not None


def test_every_criterion_has_its_grader() -> None:
    kinds = [
        made(type="string_check", operation="eq", **BOTH),
        made(type="text_similarity", evaluation_metric="bleu", pass_threshold=1, **BOTH),
    ]
    assert all(isinstance(one, DirectGrader) for one in kinds)

"""From a request to a complete order: defaults, quick runs, draws from the train split."""

from typing import Any

import pytest
from pydantic import ValidationError

from services.evaluation.material import Example
from services.evaluation.sampling import answer_budget, drawn, shots
from services.evaluation.schemas import CreateEvaluation, CreateExperiment
from services.evaluation.spec import VARIANTS, candidates
from shared.errors import InvalidInput


def order(**fields: Any) -> CreateExperiment:
    return CreateExperiment.model_validate({"dataset": "ds_1", "vector_store": "vs_1", "base_model": "small"} | fields)


def example(number: int, answer: str = "yes", cluster: str | None = None) -> Example:
    messages = [{"role": "user", "content": f"question {number}"}]
    return Example(str(number), messages, answer, [], cluster or f"document {number}", {})


def test_compares_all_five_variants_by_default() -> None:
    spec = order().to_spec("PostgreSQL parameters")
    assert spec.variants == VARIANTS
    assert {candidate.variant for candidate in candidates(spec)} == set(VARIANTS)
    assert spec.release_as == "postgresql-parameters"


def test_leaves_retrieval_out_where_there_are_no_documents() -> None:
    assert order(vector_store=None).to_spec("n").variants == ("base", "base+prompt", "tuned")


def test_refuses_a_variant_that_needs_documents_without_any() -> None:
    with pytest.raises(InvalidInput, match="raft\\+retrieval need"):
        order(vector_store=None, variants=["raft+retrieval"]).to_spec("n")


def test_always_measures_the_baseline() -> None:
    assert order(variants=["tuned"]).to_spec("n").variants == ("base", "tuned")


def test_refuses_to_compare_the_baseline_with_nothing() -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        order(variants=["base"]).to_spec("n")


def test_refuses_to_serve_the_winner_under_the_base_models_id() -> None:
    with pytest.raises(InvalidInput, match="release_as"):
        order(name="Small").to_spec("n")


def test_what_is_given_wins_over_quick() -> None:
    spec = order(quick=True, validation_limit=5).to_spec("n")
    assert spec.validation_limit == 5
    assert spec.raft.rows_limit < order().to_spec("n").raft.rows_limit


def test_refuses_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="sed"):
        order(sed=1)


@pytest.mark.parametrize("named", [{}, {"model": "m", "variant": "var_1"}])
def test_an_evaluation_names_a_model_or_a_variant(named: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="either"):
        CreateEvaluation.model_validate({"dataset": "ds_1"} | named)


def test_draws_the_same_questions_for_the_same_seed() -> None:
    pool = [example(number) for number in range(50)]
    assert drawn(pool, 10, seed=3) == drawn(pool, 10, seed=3)
    assert drawn(pool, 10, seed=3) != drawn(pool, 10, seed=4)
    assert [int(one.id) for one in drawn(pool, 10, seed=3)] == sorted(int(one.id) for one in drawn(pool, 10, seed=3))
    assert drawn(pool, None, seed=3) == drawn(pool, 80, seed=3) == pool


def test_shots_show_as_many_different_answers_as_there_are() -> None:
    pool = [example(n, answer="common") for n in range(40)] + [example(40, answer="rare"), example(41, answer="odd")]
    assert {shot.answer for shot in shots(pool, 3, seed=0)} == {"common", "rare", "odd"}


def test_shots_come_from_different_documents() -> None:
    pool = [example(n, answer=f"a{n}", cluster=f"document {n % 2}") for n in range(20)]
    assert len(shots(pool, 6, seed=0)) == 2


def test_fewer_shots_than_asked_for_make_fewer_candidates() -> None:
    spec = order().to_spec("n").model_copy(update={"shots": shots([example(1)], 6, seed=0)})
    assert [c.key for c in candidates(spec) if c.variant == "base+prompt"] == ["base+prompt@0", "base+prompt@1"]


def test_answers_may_be_longer_than_the_longest_reference_but_not_endless() -> None:
    assert answer_budget([example(1, answer="x" * 90)]) >= 45
    assert answer_budget([example(1, answer="x" * 9_000)]) == 256
    assert answer_budget([example(1, answer="on")]) == 16

"""A run that does not fit is refused with fields of the recipe that would help."""

from pathlib import Path

import pytest

from services.training.errors import DoesNotFit, ExceedsBudget, error_named
from services.training.fit import check_fit
from services.training.lora.memory import container_free
from services.training.order import Estimated
from services.training.pace import Ahead, Pace
from services.training.recipe import Recipe

ESTIMATE = Estimated(
    total_steps=40, peak_bytes=3 << 30, limit_bytes=4 << 30, seconds=1200, tokens_per_second=400, longest=300
)


def test_lets_through_what_fits_or_cannot_be_judged() -> None:
    check_fit(ESTIMATE, None, Recipe())
    check_fit(ESTIMATE, 20, Recipe())
    check_fit(ESTIMATE.model_copy(update={"limit_bytes": None}), None, Recipe())


def test_says_what_takes_less_memory() -> None:
    small = ESTIMATE.model_copy(update={"limit_bytes": 2 << 30})
    with pytest.raises(DoesNotFit, match=r"3.00 GiB .* 2.00 GiB .*micro_batch_tokens .* gradient_checkpointing: true"):
        check_fit(small, None, Recipe())
    with pytest.raises(DoesNotFit) as refused:
        check_fit(small.model_copy(update={"longest": 900}), None, Recipe(tune="full", gradient_checkpointing=True))
    for pointless in ("micro_batch_tokens", "gradient_checkpointing", "rank"):
        assert pointless not in refused.value.message
    assert "max_length (the longest example has 900 tokens)" in refused.value.message


def test_says_how_many_steps_the_budget_allows() -> None:
    with pytest.raises(
        ExceedsBudget, match=r"20 min.* max_minutes is 10.* max_steps to 20 \(now 40 steps\)"
    ) as refused:
        check_fit(ESTIMATE, 10, Recipe())
    assert refused.value.param == "max_minutes"
    assert isinstance(error_named("exceeds_budget", "m"), ExceedsBudget)


def test_a_rehearsal_is_the_estimate_until_steps_are_measured() -> None:
    pace = Pace(ending_seconds=1.0)
    pace.rehearsal_took(0.01, 0.005)
    assert pace.seconds_left(Ahead(2000, 600)) == pytest.approx(20 + 3 + 2)
    pace.step_took(30.0, 200)
    assert pace.seconds_left(Ahead(2000, 0)) == pytest.approx(20 + 2), "the first step still pays for the optimiser"
    pace.step_took(4.0, 200)
    assert pace.seconds_left(Ahead(2000, 0)) == pytest.approx(40 + 2)


def test_reads_what_a_container_leaves_free(tmp_path: Path) -> None:
    assert container_free(tmp_path) == []
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("300\n")
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 50\n")
    assert container_free(tmp_path) == []
    (tmp_path / "memory.max").write_text("1000\n")
    assert container_free(tmp_path) == [750]

"""Model ids, which checkpoints stay, and a job's status."""

import pytest

from services.training.domain import checkpoint_model_id, fine_tuned_model_id, kept_checkpoints, shown_status


def test_model_id_has_openais_form() -> None:
    assert fine_tuned_model_id("base", "My Shop!", "v1", "ftjob-0123456789") == "ft:base:my-shop:v1:23456789"
    assert fine_tuned_model_id("base", "p", None, "ftjob-0123456789") == "ft:base:p::23456789"


def test_a_project_whose_name_has_no_latin_letter_still_has_a_place_in_the_model_id() -> None:
    assert fine_tuned_model_id("base", "計画", None, "ftjob-0123456789") == "ft:base:project::23456789"


def test_a_checkpoint_is_named_after_its_model_and_step() -> None:
    assert checkpoint_model_id("ft:base:p::23456789", 40) == "ft:base:p::23456789:ckpt-step-40"


@pytest.mark.parametrize(
    ("losses", "kept"),
    [
        ({}, set()),
        ({1: None, 2: None, 3: None, 4: None}, {2, 3, 4}),
        ({1: 3.0, 2: 0.5, 3: 1.0, 4: 2.0, 5: 2.5}, {2, 3, 4, 5}),
        ({1: 3.0, 2: 2.0, 3: 0.5, 4: 1.0, 5: 0.7}, {3, 4, 5}),
        ({1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}, {1, 3, 4, 5}),
        ({1: 0.0, 2: None, 3: None, 4: None, 5: None}, {1, 3, 4, 5}),
    ],
    ids=["none", "nothing validated", "best early", "best late", "equally good", "validated once"],
)
def test_the_newest_three_checkpoints_stay_and_the_first_of_the_best(
    losses: dict[int, float | None], kept: set[int]
) -> None:
    assert kept_checkpoints(losses) == kept


def test_a_running_job_validates_until_its_data_is_known_to_be_good() -> None:
    assert shown_status("running", validated=False) == "validating_files"
    assert shown_status("running", validated=True) == "running"
    for other in ("queued", "paused", "failed"):
        assert shown_status(other, validated=False) == other

"""Model ids and a job's status."""

from services.training.domain import checkpoint_model_id, fine_tuned_model_id, shown_status


def test_model_id_has_openais_form() -> None:
    assert fine_tuned_model_id("base", "My Shop!", "v1", "ftjob-0123456789") == "ft:base:my-shop:v1:23456789"
    assert fine_tuned_model_id("base", "p", None, "ftjob-0123456789") == "ft:base:p::23456789"


def test_a_project_whose_name_has_no_latin_letter_still_has_a_place_in_the_model_id() -> None:
    assert fine_tuned_model_id("base", "計画", None, "ftjob-0123456789") == "ft:base:project::23456789"


def test_a_checkpoint_is_named_after_its_model_and_step() -> None:
    assert checkpoint_model_id("ft:base:p::23456789", 40) == "ft:base:p::23456789:ckpt-step-40"


def test_a_running_job_validates_until_its_data_is_known_to_be_good() -> None:
    assert shown_status("running", validated=False) == "validating_files"
    assert shown_status("running", validated=True) == "running"
    for other in ("queued", "paused", "failed"):
        assert shown_status(other, validated=False) == other

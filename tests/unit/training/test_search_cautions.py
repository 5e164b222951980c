"""What the report of a search on a share of the rows warns of."""

from services.training.search.report.cautions import warning


def test_warns_where_a_share_of_the_rows_decided_what_depends_on_the_number_of_steps() -> None:
    told = warning({"train_share": 0.33}, ["rank", "epochs", "learning_rate"])
    assert told is not None
    assert told.startswith(
        "Its trials learned from 33% of the rows, and what is best for learning_rate, epochs depends"
    )


def test_says_nothing_of_all_rows_or_of_what_the_number_of_steps_leaves_alone() -> None:
    assert warning({}, ["epochs"]) is None
    assert warning({"train_share": 1.0}, ["epochs"]) is None
    assert warning({"train_share": 0.33}, ["rank", "dropout"]) is None

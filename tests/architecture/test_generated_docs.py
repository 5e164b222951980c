"""Generated pages are what their generator says today."""

from scripts import generate_events


def test_the_page_of_messages_is_up_to_date() -> None:
    assert generate_events.TARGET.read_text() == generate_events.text(), "run `make docs`"

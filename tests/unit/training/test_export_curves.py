"""Loss curves as SVG and in words."""

import re
from xml.etree import ElementTree

from services.training.export.curves import WIDTH, Curves, curves_svg, in_words

SVG = "{http://www.w3.org/2000/svg}"


def curves(steps: int, every: int) -> Curves:
    return Curves.of(
        [
            {"step": step, "train_loss": 3.0 / step} | ({"valid_loss": 2.0 / step} if step % every == 0 else {})
            for step in range(1, steps + 1)
        ]
    )


def test_draws_both_curves_downwards_and_marks_the_kept_step() -> None:
    drawn = ElementTree.fromstring(curves_svg(curves(40, 10), "ft:<a>&b", 30))
    train, valid = (
        [tuple(map(float, place.split(","))) for place in line.attrib["points"].split()]
        for line in drawn.findall(f"{SVG}polyline")
    )
    assert (len(train), len(valid)) == (40, 4)
    for line in (train, valid):
        assert line == sorted(line), "a falling loss goes right and down the page"
        assert all(0 < x < WIDTH for x, _ in line)
    words = "".join(drawn.itertext())
    assert "kept: step 30" in words
    assert "ft:<a>&b" in words


def test_thins_long_runs_out() -> None:
    drawn = ElementTree.fromstring(curves_svg(curves(5000, 1000), "long", None))
    assert len(drawn.findall(f"{SVG}polyline")[0].attrib["points"].split()) <= 300


def test_draws_a_run_of_one_step_without_validation() -> None:
    drawn = curves_svg(Curves.of([{"step": 1, "train_loss": 2.5}]), "short", 1)
    assert ElementTree.fromstring(drawn).find(f"{SVG}desc") is not None
    assert "nan" not in drawn


def test_says_the_curves_in_words_that_end_with_the_last_validation() -> None:
    said = in_words(curves(100, 2))
    assert said.startswith("Training loss 3.000 at step 1, 0.030 at step 100.")
    assert said.endswith("0.020 at step 100.")
    assert len(re.findall(r"at step", said)) <= 15

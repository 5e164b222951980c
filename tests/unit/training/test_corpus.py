"""Documents are cut into even windows that cover every token once, and whole groups of them are held out."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.training.corpus import group_of, hold_out, read_documents, spool
from services.training.domain import Document, even_windows
from services.training.errors import InvalidTrainingFile
from services.training.training_files import Source, read_texts

SOURCE = Source("training_file", "texts.jsonl")


@given(st.integers(1, 5_000), st.integers(1, 600))
def test_windows_cover_every_token_once_and_are_even(length: int, most: int) -> None:
    windows = even_windows(length, most)
    assert [place for first, last in windows for place in range(first, last)] == list(range(length))
    sizes = {last - first for first, last in windows}
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert len(windows) == -(-length // most), "no more windows than needed"


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 60)), min_size=1, max_size=40), st.integers(0, 5))
def test_holds_out_whole_groups_within_the_share(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[int, int]], seed: int
) -> None:
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    spool(path, [Document("x" * size, f"group {group}") for group, size in made])
    held, documents, total = hold_out(path, 0.25, seed)
    assert (held, documents, total) == hold_out(path, 0.25, seed), "the same every time"
    groups = {document.group for document in read_documents(path)}
    assert total == len(made)
    assert documents == sum(f"group {group}" in held for group, _ in made)
    assert held < groups, "something is left to learn"
    if len(groups) > 1:
        assert held
        characters = sum(size for group, size in made if f"group {group}" in held)
        assert characters <= 0.25 * sum(size for _, size in made) or len(held) == 1


def test_the_seed_decides_what_is_held_out(tmp_path: Path) -> None:
    spool(tmp_path / "all", [Document("ten words", str(number)) for number in range(50)])
    drawn = [frozenset(hold_out(tmp_path / "all", 0.1, seed)[0]) for seed in range(5)]
    assert {len(groups) for groups in drawn} == {5}
    assert len(set(drawn)) == 5
    assert hold_out(tmp_path / "all", 0.0, 0) == (set(), 0, 50)


def test_reads_texts_and_keeps_equal_ones_together() -> None:
    rows = [{"text": "one  day\n"}, {"text": "one day"}, {"text": "two", "group": "manual"}]
    first, second, third = read_texts(io.BytesIO(b"\n".join(json.dumps(row).encode() for row in rows)), SOURCE)
    assert first.group == second.group == group_of("one day")
    assert (third.text, third.group) == ("two", "manual")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"text": "  "}, "`text` must be the document's text"),
        ({"messages": []}, "`messages` is not supported"),
        ({"text": "a", "group": 3}, "`group` must be a name"),
    ],
)
def test_names_the_line_that_is_no_document(row: dict[str, object], complaint: str) -> None:
    content = b'{"text": "fine"}\n' + json.dumps(row).encode()
    with pytest.raises(InvalidTrainingFile, match=rf"training_file \(texts.jsonl\), line 2: {complaint}"):
        list(read_texts(io.BytesIO(content), SOURCE))

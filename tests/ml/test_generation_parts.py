"""The engine's parts on their own: who is read next, text from tokens, the choice of a token."""

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.generation.answering import Sampling
from services.generation.engine.admission import Limits, next_prefill
from services.generation.engine.sampling import RowSampler, next_tokens
from services.generation.engine.text import IncrementalText


@dataclass(frozen=True)
class Asked:
    """A request as admission sees it."""

    number: int
    prompt_length: int
    answer: int = 10
    interactive: bool = True

    @property
    def final_length(self) -> int:
        return self.prompt_length + self.answer


requests = st.builds(Asked, st.integers(0, 10**6), st.integers(1, 2000), st.integers(1, 500), interactive=st.booleans())
LIMITS = Limits(rows=8, prefill_tokens=2048, cache_tokens=8000)


@given(st.lists(requests, max_size=20), st.lists(requests, max_size=8))
def test_never_admits_more_than_fits_or_pads_much(waiting: list[Asked], running: list[Asked]) -> None:
    chosen = next_prefill(waiting, running, LIMITS)
    assert Counter(chosen) <= Counter(waiting)
    if len(chosen) > 1:
        everyone = [*running, *chosen]
        assert len(everyone) <= LIMITS.rows
        assert len(everyone) * max(row.final_length for row in everyone) <= LIMITS.cache_tokens
        cells = len(chosen) * max(row.prompt_length for row in chosen)
        assert cells <= LIMITS.prefill_tokens
        assert cells <= 1.3 * sum(row.prompt_length for row in chosen) + 64


@given(st.lists(requests, min_size=1, max_size=20))
def test_starves_nobody(waiting: list[Asked]) -> None:
    first = next((one for one in waiting if one.interactive), waiting[0])
    assert next_prefill(waiting, [], LIMITS)[0] is first
    served = 0
    while waiting:
        chosen = next_prefill(waiting, [], LIMITS)
        served += len(chosen)
        waiting = [one for one in waiting if not any(one is other for other in chosen)]
    assert served > 0


def test_waits_for_room_rather_than_pass_over_the_first() -> None:
    running = [Asked(0, 1000)] * 4
    assert next_prefill([Asked(1, 3000), Asked(2, 10)], running, LIMITS) == []


def bytes_of(text: str) -> list[int]:
    return list(text.encode())


def decode_bytes(tokens: list[int]) -> str:
    """A tokenizer whose tokens are bytes: every letter but the plainest is torn apart."""
    return bytes(tokens).decode(errors="replace")


texts = st.text(alphabet="abS €ü😀", max_size=30)


@given(texts)
def test_shows_every_letter_once_and_none_in_pieces(text: str) -> None:
    found = IncrementalText(decode_bytes, ())
    shown = [found.add(token) for token in bytes_of(text)]
    assert all("\ufffd" not in piece for piece in shown)
    assert "".join(shown) + found.finish() == text


@given(texts, st.integers(1, 3))
def test_drops_a_letter_that_was_cut_in_half(text: str, missing: int) -> None:
    found = IncrementalText(decode_bytes, ())
    shown = "".join(found.add(token) for token in bytes_of(text + "😀")[:-missing])
    assert shown + found.finish() == text


@given(texts, st.lists(st.text(alphabet="abS €", min_size=1, max_size=4), max_size=3))
def test_shows_nothing_of_a_stop_string_or_after_it(text: str, stops: list[str]) -> None:
    found, shown = IncrementalText(decode_bytes, stops), ""
    for token in bytes_of(text):
        shown += found.add(token)
        assert not any(stop in shown for stop in stops)
        if found.stopped:
            break
    shown += found.finish()
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert (shown, found.stopped) == (text, False)
        return
    # the stop string that is complete first ends the text where it begins
    begins = min(text.index(stop) for stop in stops if stop in text and text.index(stop) + len(stop) == min(ends))
    assert found.stopped
    assert shown == text[:begins]


def test_samples_in_proportion_to_the_probabilities() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    sampler = RowSampler(Sampling(temperature=1.0, seed=1))
    counts = Counter(sampler.choose(logits) for _ in range(4000))
    assert [counts[token] / 4000 for token in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_keeps_to_the_smallest_set_whose_mass_reaches_top_p() -> None:
    logits = torch.tensor([0.05, 0.5, 0.15, 0.3]).log()
    sampler = RowSampler(Sampling(temperature=1.0, top_p=0.75, seed=1))
    assert set(Counter(sampler.choose(logits) for _ in range(500))) == {1, 3}


def test_finds_the_nucleus_of_a_flat_distribution_too() -> None:
    sampler = RowSampler(Sampling(temperature=1.0, top_p=0.9, seed=1))
    found = {sampler.choose(torch.zeros(50_000)) for _ in range(200)}
    assert len(found) > 190


@given(st.integers(0, 2**31))
def test_takes_the_likeliest_of_every_greedy_row(seed: int) -> None:
    logits = torch.randn(5, 100, generator=torch.Generator().manual_seed(seed))
    greedy = [RowSampler(Sampling(temperature=0.0))] * 5
    assert next_tokens(logits, greedy) == logits.argmax(dim=-1).tolist()

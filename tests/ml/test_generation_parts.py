"""The engine's parts on their own: who is read next, text from tokens, the choice of a token."""

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.generation.answering import Sampling, TokenLogprob
from services.generation.engine.admission import Limits, next_prefill
from services.generation.engine.logprobs import ShownTokens
from services.generation.engine.sampling import RowSampler, next_tokens
from services.generation.engine.text import IncrementalText


@dataclass(frozen=True)
class Asked:
    """A request as admission sees it."""

    number: int
    prompt_length: int
    answer: int = 10
    interactive: bool = True
    siblings: int = -1

    @property
    def prompt_id(self) -> int:
        return self.siblings if self.siblings >= 0 else id(self)

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


def test_reads_all_choices_of_a_long_prompt_together() -> None:
    choices = [Asked(number, 900, answer=50, siblings=1) for number in range(8)]
    assert next_prefill(choices, [], LIMITS) == choices
    assert len(next_prefill([Asked(number, 900, answer=50) for number in range(8)], [], LIMITS)) == 2


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


def test_takes_the_likeliest_token_where_top_p_is_0() -> None:
    logits = torch.tensor([1.0, 1.1, 0.9])
    sampler = RowSampler(Sampling(temperature=2.0, top_p=0, seed=1))
    assert sampler.plain
    assert {sampler.choose(logits) for _ in range(50)} == {1}


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
    assert [chosen.token for chosen in next_tokens(logits, greedy)] == logits.argmax(dim=-1).tolist()


def test_takes_nothing_else_than_alone_in_a_batch_of_all_options() -> None:
    options = [
        Sampling(temperature=0.0),
        Sampling(temperature=0.0, logit_bias={3: 100.0}),
        Sampling(temperature=0.0, frequency_penalty=2.0, presence_penalty=2.0, top_logprobs=2),
        Sampling(temperature=1.0, top_p=0.9, seed=5),
    ]
    steps = torch.randn(12, 4, 50, generator=torch.Generator().manual_seed(1))
    together_by = [RowSampler(one) for one in options]
    together = [next_tokens(step, together_by) for step in steps]
    for row, one in enumerate(options):
        alone_by = [RowSampler(one)]
        assert [next_tokens(step[row : row + 1], alone_by)[0] for step in steps] == [step[row] for step in together]


def test_leaves_the_models_own_logits_as_they_are() -> None:
    logits = torch.randn(1, 50)
    before = logits.clone()
    sampler = RowSampler(Sampling(temperature=0.0, logit_bias={3: 50.0}, presence_penalty=1.0, top_logprobs=1))
    for _ in range(3):
        chosen = next_tokens(logits, [sampler])[0]
        assert chosen.ranked is not None
        assert chosen.ranked.logprob == pytest.approx(float(before.log_softmax(-1)[0, 3]))
        assert chosen.ranked.likeliest[0][0] == int(before.argmax())
    assert torch.equal(logits, before)


def test_penalises_what_was_said_by_openais_formula() -> None:
    logits = torch.tensor([[3.0, 2.0, 0.0]])
    # 0 leads by 1, and loses 1.1 when it is said first, 0.4 every time after
    sampler = RowSampler(Sampling(temperature=0.0, frequency_penalty=0.4, presence_penalty=0.7))
    assert [next_tokens(logits, [sampler])[0].token for _ in range(6)] == [0, 1, 0, 0, 0, 1]
    only_once = RowSampler(Sampling(temperature=0.0, presence_penalty=0.7))
    assert [next_tokens(logits, [only_once])[0].token for _ in range(4)] == [0, 0, 0, 0]


def test_bans_and_forces_tokens_by_their_bias() -> None:
    logits = torch.tensor([[3.0, 2.0, 0.0]])
    assert next_tokens(logits, [RowSampler(Sampling(temperature=0.0, logit_bias={0: -100.0}))])[0].token == 1
    assert next_tokens(logits, [RowSampler(Sampling(temperature=1.0, logit_bias={2: 100.0}))])[0].token == 2


def test_draws_every_choice_of_a_seed_by_its_own_numbers() -> None:
    logits = torch.zeros(1000)
    drawn = [RowSampler(Sampling(seed=7), choice=choice).choose(logits) for choice in (0, 1, 2, 0)]
    assert drawn[0] == drawn[3] == RowSampler(Sampling(seed=7)).choose(logits)
    assert len(set(drawn)) == 3
    assert RowSampler(Sampling(seed=2**63 - 1), choice=127).choose(logits) >= 0


def shown(pieces: list[tuple[bytes, str]]) -> list[list[bytes]]:
    """For every token and the text that it made safe: the tokens whose probabilities are then shown."""
    tokens = ShownTokens()
    found = []
    for token, text in pieces:
        tokens.add(TokenLogprob(token, -1.0))
        found.append([one.token for one in tokens.show(text)])
    return [*found, [one.token for one in tokens.rest()]]


def test_shows_a_tokens_probability_with_the_text_that_it_begins() -> None:
    assert shown([(b"Gr", "Gr"), (b"\xc3", ""), (b"\xbc", "ü"), (b"n", "n")]) == [
        [b"Gr"], [], [b"\xc3", b"\xbc"], [b"n"], []
    ]  # fmt: skip
    assert shown([(b"a", ""), (b"bST", "a"), (b"OP", "b")])[:3] == [[], [b"a"], [b"bST"]]
    assert shown([(b"a", "a"), (b"\xf0", "")]) == [[b"a"], [], [b"\xf0"]]

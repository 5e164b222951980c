"""Two steps rehearsed before a run's first: its time and its memory, measured, and nothing of the run touched."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from services.training.lora import memory
from services.training.lora.loop import Training
from services.training.lora.objectives import evaluating, flat
from services.training.lora.packing import Group, pack_size, split_batch
from services.training.lora.room import foresee
from services.training.order import Estimated

_TIMED_SCORINGS = 4
"""Forward passes of the validation that are timed."""


def rehearse(training: Training, most_bytes: int | None = None) -> Estimated:
    """What the run will take. Weights, optimiser and random numbers are as before. Every rank has to come.

    Computes two smaller packs, by which it foresees the memory of the hardest and ends there if that is too much. Then
    the first step's batch twice, the second time by the clock, then the hardest packs of its batches and validations
    beside all that a run holds, and some of the validation by the clock.

    The hardest come last because they do in the run: the heap is then full of the holes that ordinary packs left.

    `most_bytes` is a limit besides what the machine has.
    """
    device, ranks, work = training.model.device, training.ranks, training.workload
    batches = [work.batch(step) for step in work.looked_at]
    longest = sorted([*training.train, *training.replay], key=_length)[-training.recipe.batch_size :]
    trained = [pack for batch in [*batches, longest] for pack in work.packs(batch)]
    scored = [pack for groups in [*work.samples, work.rest] for pack in work.packs(groups)]
    torch.set_num_threads(training.share.threads())
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        training.model.whole.train()
        too_much = _foreseen_too_much(training, trained, most_bytes)
        if too_much is not None:
            return too_much
        most = training.recipe.micro_batch_tokens
        first = [*split_batch(ranks.part(batches[0]), most), *ranks.idle(batches[0], most)]
        _compute(training, first)
        began = time.perf_counter()
        _compute(training, first)
        trained_rate = ranks.sum([time.perf_counter() - began])[0] / ranks.size / work.tokens(batches[0])
        held = _held_later(training)
        _compute(training, _hardest(trained))
        scored_rate = _time_scoring(training, scored) if scored else None
    peak = memory.peak_bytes(device)
    del held
    training.pace.rehearsal_took(trained_rate, scored_rate)
    return _estimated(training, trained_rate, peak, most_bytes)


def _foreseen_too_much(training: Training, trained: Sequence[list[Group]], most_bytes: int | None) -> Estimated | None:
    """The estimate where the hardest pack would take more memory than there is: to compute it would be the end."""
    device = training.model.device
    if memory.taken_bytes(device) is None:
        return None
    foreseen = foresee(trained, lambda pack: _held_by(training, pack))
    if foreseen is None:
        return None
    kept = 3 * sum(p.numel() * p.element_size() for p in training.parameters.values())  # as `_held_later`
    rate = training.ranks.sum([foreseen.seconds_per_token])[0] / training.ranks.size
    training.pace.rehearsal_took(rate, None)
    estimate = _estimated(training, rate, foreseen.bytes + kept, most_bytes)
    too_much = estimate.limit_bytes is not None and estimate.peak_bytes > estimate.limit_bytes
    return estimate if too_much else None


def _held_by(training: Training, pack: list[Group]) -> tuple[int, float]:
    began = time.perf_counter()
    loss = training.objective.loss(pack).total
    _wait(training)
    held = memory.taken_bytes(training.model.device)
    assert held is not None, "asked before"
    loss.backward()
    training.optimizer.zero_grad(set_to_none=True)
    _wait(training)
    return held, time.perf_counter() - began


def _estimated(training: Training, seconds_per_token: float, peak: int, most_bytes: int | None) -> Estimated:
    """What the run takes with this peak of memory in this process; its pace knows a rehearsal."""
    ranks, work = training.ranks, training.workload
    ahead = work.ahead(0)
    left = training.pace.seconds_left(ahead)
    assert left is not None, "a rehearsal is enough to estimate by"
    own = memory.limit_bytes(training.model.device)
    limits = [most_bytes] if most_bytes is not None else []
    if own is not None:
        # ranks of one machine share what is free; the mean is the same for all of them, so that they decide alike
        limits.append(int(ranks.sum([peak])[0] + ranks.sum([own - peak])[0] / ranks.size))
    batches = [work.batch(step) for step in work.looked_at]
    tokens = sum(training.objective.tokens(group) for batch in batches for group in batch) / len(batches)
    return Estimated(
        total_steps=training.plan.total_steps,
        peak_bytes=int(ranks.sum([peak])[0]),
        limit_bytes=min(limits, default=None),
        seconds=left,
        tokens_per_second=tokens * training.plan.total_steps / (ahead.trained * seconds_per_token),
        longest=max(_length(group) for group in [*training.train, *training.replay]),
    )


def _hardest(packs: Sequence[list[Group]]) -> list[list[Group]]:
    """That of the most tokens, for attention and activations, and that of the most labels, for logits."""
    sizes = [(pack_size(some), sum(len(example.completion) for example in flat(some))) for some in packs]
    widest = max(range(len(packs)), key=lambda i: sizes[i])
    most_labels = max(range(len(packs)), key=lambda i: sizes[i][::-1])
    return [packs[i] for i in sorted({widest, most_labels})]


def _time_scoring(training: Training, packs: Sequence[list[Group]]) -> float:
    """Seconds per token of a validation, of which every rank computes a part."""
    timed = packs[:: max(1, len(packs) // _TIMED_SCORINGS)]
    _score(training, _hardest(packs))
    began = time.perf_counter()
    _score(training, timed)
    seconds = training.ranks.sum([time.perf_counter() - began])[0] / training.ranks.size
    return seconds / sum(map(pack_size, timed)) / training.ranks.size


def _score(training: Training, packs: Sequence[list[Group]]) -> None:
    with evaluating(training.model):
        for some in packs:
            training.objective.loss(some)
    _wait(training)


def _compute(training: Training, packs: Sequence[list[Group]]) -> None:
    """Forward and backward, and the gradients dropped."""
    for some in packs:
        training.objective.loss(some).total.backward()
    training.optimizer.zero_grad(set_to_none=True)
    _wait(training)


def _wait(training: Training) -> None:
    if training.model.device.type == "cuda":
        torch.cuda.synchronize(training.model.device)


def _length(group: Group) -> int:
    return max(len(example) for example in group)


def _held_later(training: Training) -> list[Tensor]:
    """As much as a run holds besides: AdamW's two moments, and a copy of the best weights."""
    moments = [torch.ones_like(p) for p in training.parameters.values() for _ in range(2)]  # written to, or not taken
    return moments + list(training.tuned.kept().values())

"""Two steps rehearsed before a run's first: its time and its memory, measured, and nothing of the run touched."""

import time
from collections.abc import Iterable

import torch

from services.training.lora import memory
from services.training.lora.loop import Training
from services.training.lora.objectives import flat
from services.training.lora.packing import Group, pack, split_batch
from services.training.order import Estimated

_LOOKED_AT = 16
"""Steps of the plan whose packs are counted and searched for the hardest: a look, not a measurement."""


def rehearse(training: Training, most_bytes: int | None = None) -> Estimated:
    """What the run will take, from computing its hardest packs and then the first step's batch twice, the second time
    by the clock. Weights, optimiser and random numbers are as before. Every rank has to come.

    `most_bytes` is a limit besides what the machine has.
    """
    device, ranks = training.model.device, training.ranks
    batches = [_batch(training, step) for step in _some_steps(training.plan.total_steps)]
    longest = sorted([*training.train, *training.replay], key=_length)[-training.recipe.batch_size :]
    computed = [_computed(training, batch) for batch in batches]
    first = list(ranks.part(batches[0]))
    torch.set_num_threads(training.share.threads())
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        training.model.whole.train()
        for hard in _hardest([part for batch in [*batches, longest] for part in _packs(training, batch)]):
            _compute(training, [hard])
        _compute(training, _packs(training, first))
        began = time.perf_counter()
        _compute(training, _packs(training, first))
        seconds = time.perf_counter() - began
    seconds = ranks.sum([seconds])[0] / ranks.size * sum(computed) / len(computed) / computed[0]
    tokens = sum(training.objective.tokens(group) for batch in batches for group in batch) / len(batches)
    training.pace.rehearsal_took(seconds, tokens)
    validations = training.plan.validations_after(0) if training.sample else 0
    left = training.pace.seconds_left(training.plan.total_steps, validations)
    assert left is not None, "a rehearsal is enough to estimate by"
    own = memory.limit_bytes(device)
    limits = [most_bytes] if most_bytes is not None else []
    if own is not None:
        # ranks of one machine share what is free; the mean is the same for all of them, so that they decide alike
        taken = memory.peak_bytes(device)
        limits.append(int(ranks.sum([taken])[0] + ranks.sum([own - taken])[0] / ranks.size))
    return Estimated(
        total_steps=training.plan.total_steps,
        peak_bytes=int(ranks.sum([memory.peak_bytes(device) + _later_bytes(training)])[0]),
        limit_bytes=min(limits, default=None),
        seconds=left,
        tokens_per_second=tokens / seconds,
        longest=_length(longest[-1]),
    )


def _some_steps(total: int) -> Iterable[int]:
    return range(1, total + 1, max(1, -(-total // _LOOKED_AT)))


def _batch(training: Training, step: int) -> list[Group]:
    plan = training.plan
    return [training.train[i] for i in plan.batch(step)] + [training.replay[i] for i in plan.replayed(step)]


def _packs(training: Training, groups: list[Group]) -> list[list[Group]]:
    return split_batch(groups, training.recipe.micro_batch_tokens)


def _computed(training: Training, batch: list[Group]) -> int:
    """Tokens that go through the model for it."""
    return sum(len(pack(flat(some)).input_ids) for some in _packs(training, batch))


def _hardest(packs: list[list[Group]]) -> list[list[Group]]:
    """That of the most tokens, for attention and activations, and that of the most labels, for logits."""
    sizes = [(len(laid.input_ids), laid.label_count) for laid in (pack(flat(some)) for some in packs)]
    widest = max(range(len(packs)), key=lambda i: sizes[i])
    most_labels = max(range(len(packs)), key=lambda i: sizes[i][::-1])
    return [packs[i] for i in sorted({widest, most_labels})]


def _compute(training: Training, packs: list[list[Group]]) -> None:
    """Forward and backward, and the gradients dropped."""
    for some in packs:
        training.objective.loss(some)[0].backward()
    training.optimizer.zero_grad(set_to_none=True)
    if training.model.device.type == "cuda":
        torch.cuda.synchronize(training.model.device)


def _length(group: Group) -> int:
    return max(len(example) for example in group)


def _later_bytes(training: Training) -> int:
    """What a run takes beyond the rehearsal: AdamW's two moments, and a copy of the best weights (on the CPU)."""
    weights = sum(p.numel() * p.element_size() for p in training.parameters.values())
    return (2 if training.model.device.type == "cuda" else 3) * weights

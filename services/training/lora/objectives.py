"""What is learned: the answers themselves, or to prefer one answer to another. The loop knows neither."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from services.training.lora import generators
from services.training.lora.base_model import BaseModel
from services.training.lora.noise import NO_NOISE, Noise
from services.training.lora.packing import Group, Pack, TokenExample, pack, split_batch
from services.training.lora.scoring import Scored, Tally, log_likelihoods, score_pack
from services.training.lora.sharding import is_sharded

Reference = Mapping[Group, tuple[float, float]]
"""Log-likelihoods of a pair's preferred and rejected answers under the reference model, in nats."""


class Loss(NamedTuple):
    """Of some groups: their summed loss (differentiable), its sums, and each group's own part of it, in nats."""

    total: Tensor
    tally: Tally
    each: list[float]


class Objective(Protocol):
    """A loss over groups, summed: the loop divides it by the whole batch's `weight`."""

    def weight(self, groups: Sequence[Group]) -> int:
        """What the mean loss of these groups is a mean over."""
        ...

    def tokens(self, group: Group) -> int:
        """Tokens of the training example after the chat template, prompt included."""
        ...

    def loss(self, groups: Sequence[Group]) -> Loss:
        """Of the groups, in one forward pass."""
        ...

    def unsmoothed(self) -> "Objective":
        """The same with true targets: what is left of the noise in training disturbs what goes in and through."""
        ...


class Supervised:
    """Negative log-likelihood of the completions, a mean over their tokens; in training mode with its noise."""

    def __init__(self, model: BaseModel, noise: Noise = NO_NOISE) -> None:
        self._model, self._noise = model, noise

    def weight(self, groups: Sequence[Group]) -> int:
        return sum(len(example.completion) for group in groups for example in group)

    def tokens(self, group: Group) -> int:
        return max(len(example) for example in group)  # the last turn's prompt holds the turns before it

    def unsmoothed(self) -> "Supervised":
        return type(self)(self._model, replace(self._noise, label_smoothing=0.0))

    def loss(self, groups: Sequence[Group]) -> Loss:
        packed = pack(flat(groups))
        scored = score_pack(self._model, packed, self._noise if self._model.whole.training else NO_NOISE)
        total = scored.losses.sum()
        tally = _tally(packed, scored, total, weight=packed.label_count)
        each = log_likelihoods(scored, packed, sum(len(group) for group in groups)).detach()
        losses = [-float(part.sum()) for part in each.cpu().split([len(group) for group in groups])]
        tally.add_examples(losses, [self.weight([group]) for group in groups])
        return Loss(total, tally, losses)


class ContinuedPretraining(Supervised):
    """The same of every token of documents, a mean over them (Gururangan et al. 2020, arXiv:2004.10964); e to its power
    is the perplexity. A window's prompt is only the token before it."""

    def tokens(self, group: Group) -> int:
        return sum(len(window.completion) for window in group)


class Preference:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290, equation 7), a mean over pairs:

    -log σ(β [(log π(y_w|x) - log π_ref(y_w|x)) - (log π(y_l|x) - log π_ref(y_l|x))])

    A reward is β times an answer's log-likelihood ratio. Token accuracy is of the preferred answers' tokens.
    """

    def __init__(self, model: BaseModel, beta: float, reference: Reference) -> None:
        self._model, self._beta, self._reference = model, beta, reference

    def weight(self, groups: Sequence[Group]) -> int:
        return len(groups)

    def tokens(self, group: Group) -> int:
        return sum(len(example) for example in group)

    def unsmoothed(self) -> "Preference":
        return self

    def loss(self, groups: Sequence[Group]) -> Loss:
        packed = pack(flat(groups))
        scored = score_pack(self._model, packed)
        policy = log_likelihoods(scored, packed, 2 * len(groups)).view(-1, 2)  # (pairs, preferred and rejected)
        reference = torch.tensor([self._reference[group] for group in groups], device=policy.device)
        preferred, rejected = (self._beta * (policy - reference)).unbind(-1)
        each = -functional.logsigmoid(preferred - rejected)  # (pairs,)
        total = each.sum()
        liked = torch.from_numpy(packed.owners % 2 == 0).to(scored.hits.device)
        tally = _tally(packed, Scored(scored.losses, scored.hits & liked), total, weight=len(groups))
        tally.labels = sum(len(group[0].completion) for group in groups)
        tally.pairs, tally.wins = len(groups), int((preferred > rejected).sum())
        losses = each.detach().tolist()
        tally.add_examples(losses, [1] * len(groups))
        tally.preferred_reward, tally.rejected_reward = preferred.sum().item(), rejected.sum().item()
        return Loss(total, tally, losses)


def score_set(
    model: BaseModel,
    objective: Objective,
    groups: Sequence[Group],
    micro_batch_tokens: int,
    idle: Sequence[list[Group]] = (),
) -> Tally:
    """The sums over all the groups, without gradients; the model's mode is restored. `idle` passes do not count."""
    tally = Tally()
    with evaluating(model):
        for part in split_batch(groups, micro_batch_tokens):
            tally.add(objective.loss(part).tally)
        for part in idle:
            objective.loss(part)
    return tally


def score_noise(
    model: BaseModel,
    objective: Objective,
    groups: Sequence[Group],
    micro_batch_tokens: int,
    idle: Sequence[list[Group]] = (),
) -> tuple[Tally, Tally]:
    """The sums of `score_set`, and those of what dropout and NEFTune add to each group's loss.

    Both are measured on the same groups, so that their difference is known far better than either. Nothing is drawn
    that the training would have drawn.
    """
    plain, added = Tally(), Tally()
    with generators.unchanged(model.device):
        for part in split_batch(groups, micro_batch_tokens):
            calm, disturbed = _calm_and_disturbed(model, objective, part)
            plain.add(calm.tally)
            costs = [after - before for before, after in zip(calm.each, disturbed.each, strict=True)]
            cost = Tally(loss=sum(costs), weight=calm.tally.weight, computed=disturbed.tally.computed)
            cost.add_examples(costs, [objective.weight([group]) for group in part])
            added.add(cost)
        for part in idle:
            _calm_and_disturbed(model, objective, part)
    return plain, added


def _calm_and_disturbed(model: BaseModel, objective: Objective, groups: Sequence[Group]) -> tuple[Loss, Loss]:
    with evaluating(model):
        calm = objective.loss(groups)
    with evaluating(model, noise=True):
        return calm, objective.unsmoothed().loss(groups)


@contextmanager
def evaluating(model: BaseModel, *, noise: bool = False) -> Iterator[None]:
    """Without gradients, and without dropout and what else a training adds unless `noise` asks for it.

    The model's mode is restored.
    """
    was_training = model.whole.training
    model.whole.train(noise)
    try:
        # whole weights that were first fetched in inference mode could not be trained with later
        with torch.no_grad() if is_sharded(model) else torch.inference_mode():
            yield
    finally:
        model.whole.train(was_training)


def _tally(packed: Pack, scored: Scored, total: Tensor, *, weight: int) -> Tally:
    return Tally(
        loss=total.item(),
        weight=weight,
        correct=int(scored.hits.sum()),
        labels=packed.label_count,
        computed=len(packed.input_ids),
    )


def flat(groups: Sequence[Group]) -> list[TokenExample]:
    """The groups' examples, group by group."""
    return [example for group in groups for example in group]

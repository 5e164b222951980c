"""Forward passes over packs: logits only where a completion token is due, and the sums that make up a loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from services.training.lora.base_model import BaseModel
from services.training.lora.noise import NO_NOISE, Noise, embedding_noise
from services.training.lora.packing import NO_LABEL, Pack


@dataclass
class Tally:
    """Sums over a batch or a validation set, so that packs of any size add up to the same means.

    `weight` is what the loss is a mean over: completion tokens, or pairs. Rewards are DPO's, summed over pairs.
    """

    loss: float = 0.0
    weight: int = 0
    correct: int = 0
    labels: int = 0
    computed: int = 0
    """Tokens that went through the model after prefixes were shared."""
    examples: int = 0
    squared_losses: float = 0.0
    squared_weights: float = 0.0
    loss_weights: float = 0.0
    """Sums over training examples of loss², weight² and loss·weight, for the standard error."""
    pairs: int = 0
    wins: int = 0
    preferred_reward: float = 0.0
    rejected_reward: float = 0.0

    def add(self, other: "Tally") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def mean_loss(self) -> float:
        return self.loss / self.weight

    @property
    def standard_error(self) -> float | None:
        """Of the mean loss, with examples (not tokens) as the independent draws: a ratio's, by linearisation."""
        if self.examples < 2:
            return None
        mean = self.mean_loss
        spread = self.squared_losses - 2 * mean * self.loss_weights + mean**2 * self.squared_weights
        return math.sqrt(max(0.0, spread) * self.examples / (self.examples - 1)) / self.weight

    def add_examples(self, losses: Sequence[float], weights: Sequence[int]) -> None:
        """Each training example's own loss, summed over what it weighs."""
        self.examples += len(losses)
        self.squared_losses += sum(loss * loss for loss in losses)
        self.squared_weights += sum(weight * weight for weight in weights)
        self.loss_weights += sum(loss * weight for loss, weight in zip(losses, weights, strict=True))

    @property
    def accuracy(self) -> float:
        """The share of completion tokens that the model would have chosen itself."""
        return self.correct / self.labels

    @property
    def reward_accuracy(self) -> float | None:
        """The share of pairs whose preferred answer has the higher reward."""
        return self.wins / self.pairs if self.pairs else None

    @property
    def reward_margin(self) -> float | None:
        """Mean reward of preferred answers less that of rejected ones, in nats times beta."""
        return (self.preferred_reward - self.rejected_reward) / self.pairs if self.pairs else None


@dataclass(frozen=True)
class Scored:
    """What a forward pass says of its labels: `losses` (M,) in nats, 0 in padding; `hits` (M,) greedy hits."""

    losses: Tensor
    hits: Tensor


def score_pack(model: BaseModel, packed: Pack, noise: Noise = NO_NOISE) -> Scored:
    """Negative log-likelihood of every label, differentiable; what `noise` asks for is always done."""
    logits = model.forward_pass(lambda: _logits(model, packed, noise)).float()
    labels = torch.from_numpy(packed.labels).to(model.device)
    losses = functional.cross_entropy(
        logits, labels, reduction="none", ignore_index=NO_LABEL, label_smoothing=noise.label_smoothing
    )
    return Scored(losses, logits.detach().argmax(-1) == labels)


def _logits(model: BaseModel, packed: Pack, noise: Noise) -> Tensor:
    """(M, vocabulary) where a label is due, in the model's type."""
    device = model.device
    sees = torch.from_numpy(packed.sees).to(device)
    bias = torch.zeros(sees.shape, dtype=model.dtype, device=device).masked_fill_(~sees, -torch.inf)
    hidden = model.network(
        **_inputs(model, packed, noise),
        position_ids=torch.from_numpy(packed.positions).to(device)[None],
        attention_mask=bias[None, None],  # (1, 1, N, N)
        use_cache=False,
    ).last_hidden_state  # (1, N, width)
    logits: Tensor = model.head(hidden[0, torch.from_numpy(packed.label_nodes).to(device)])
    return logits


def _inputs(model: BaseModel, packed: Pack, noise: Noise) -> dict[str, Tensor]:
    """The pack's tokens (1, N), or their noisy embeddings (1, N, width)."""
    ids = torch.from_numpy(packed.input_ids).to(model.device)[None]
    if not noise.neftune_alpha:
        return {"input_ids": ids}
    embedded: Tensor = model.whole.get_input_embeddings()(ids)
    return {"inputs_embeds": embedded + embedding_noise(packed, embedded, noise.neftune_alpha)}


def log_likelihoods(scored: Scored, packed: Pack, examples: int) -> Tensor:
    """(examples,) each example's completion, in nats, differentiable; in the order the examples were packed in."""
    owners = torch.from_numpy(packed.owners).to(scored.losses.device)
    return torch.zeros(examples, device=scored.losses.device).index_add(0, owners, -scored.losses)

"""The loss of a pack and of a whole validation set, with logits only where a completion token is due."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from services.training.lora.base_model import BaseModel
from services.training.lora.packing import NO_LABEL, Pack, TokenExample, pack, split_batch


@dataclass
class Tally:
    """Sums over completion tokens, so that packs of any size add up to the same means."""

    loss: float = 0.0
    correct: int = 0
    labels: int = 0

    def add(self, loss: Tensor, correct: Tensor, labels: int) -> None:
        self.loss += loss.item()
        self.correct += int(correct.item())
        self.labels += labels

    @property
    def mean_loss(self) -> float:
        return self.loss / self.labels

    @property
    def accuracy(self) -> float:
        return self.correct / self.labels


def score_pack(model: BaseModel, packed: Pack) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood in nats (differentiable) and the count of greedy hits, both scalars."""
    device = model.device
    sees = torch.from_numpy(packed.sees).to(device)
    bias = torch.zeros(sees.shape, dtype=model.dtype, device=device).masked_fill_(~sees, -torch.inf)
    hidden = model.network(
        input_ids=torch.from_numpy(packed.input_ids).to(device)[None],  # (1, N)
        position_ids=torch.from_numpy(packed.positions).to(device)[None],
        attention_mask=bias[None, None],  # (1, 1, N, N)
        use_cache=False,
    ).last_hidden_state  # (1, N, width)
    logits = model.head(hidden[0, torch.from_numpy(packed.label_nodes).to(device)]).float()  # (M, vocabulary)
    labels = torch.from_numpy(packed.labels).to(device)
    loss = functional.cross_entropy(logits, labels, reduction="sum", ignore_index=NO_LABEL)
    return loss, (logits.detach().argmax(-1) == labels).sum()


def score_set(model: BaseModel, examples: Sequence[TokenExample], micro_batch_tokens: int) -> Tally:
    """Loss and token accuracy over all the examples, without gradients; the model's mode is restored."""
    tally = Tally()
    was_training = model.whole.training
    model.whole.eval()
    with torch.inference_mode():
        for group in split_batch(examples, micro_batch_tokens):
            packed = pack(group)
            tally.add(*score_pack(model, packed), packed.label_count)
    model.whole.train(was_training)
    return tally

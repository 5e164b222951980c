"""Several processes that train one model: each computes its part of every batch, and all take the same step.

Gradients and sums are added up over the ranks before anything is decided by them, so every rank decides alike: to
step, to stop, that a loss is not finite. The arithmetic is one process's up to the order of addition. Rank 0 alone
writes and speaks (ADR 8).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

from services.training.lora.packing import Group, portions, split_batch
from services.training.lora.scoring import Tally
from services.training.settings import Launch


@dataclass(frozen=True)
class Ranks:
    """This process, `rank`, among `size`; alone, nothing here costs or changes anything."""

    rank: int = 0
    size: int = 1
    shards: bool = False
    """Whether the model is spread over the ranks: then none can compute alone, nor write alone what is spread."""

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def gathers(self) -> bool:
        """Whether this rank is needed for what rank 0 writes."""
        return self.leads or self.shards

    def part(self, groups: Sequence[Group]) -> list[Group]:
        """What this rank computes of them."""
        return portions(groups, self.size)[self.rank]

    def idle(self, groups: Sequence[Group], micro_batch_tokens: int) -> list[list[Group]]:
        """Passes besides those of this rank's part, whose results do not count, so that all ranks come to as many."""
        if not (self.shards and groups):
            return []
        packs = [len(split_batch(part, micro_batch_tokens)) for part in portions(groups, self.size)]
        shortest = min(groups, key=lambda group: sum(map(len, group)))
        return [[shortest]] * (max(packs) - packs[self.rank])

    def draw_apart(self, seed: int) -> None:
        """Give every rank random numbers of its own from here on; rank 0's are those of one process."""
        if not self.leads:
            torch.manual_seed(int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0]))

    def any(self, wanted: bool) -> bool:
        """Whether any rank wants it, so that all do the same."""
        return wanted if self.size == 1 else self.sum([float(wanted)])[0] > 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """The values' sums over the ranks; whole numbers stay exact up to 2^53."""
        if self.size == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64, device=_device())
        distributed.all_reduce(together)
        return [float(value) for value in together.tolist()]

    def sum_tally(self, tally: Tally) -> Tally:
        """The sums over all ranks' packs."""
        if self.size == 1:
            return tally
        names = [field.name for field in fields(tally)]
        mine, everyone = [getattr(tally, name) for name in names], Tally()
        for name, own, value in zip(names, mine, self.sum(mine), strict=True):
            setattr(everyone, name, round(value) if isinstance(own, int) else value)
        return everyone

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add the ranks' gradients up, in place and in one message; a rank that had no pack adds zeros.

        Those of parameters that are spread were added up in the backward pass.
        """
        if self.size == 1:
            return
        wanted = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if not wanted:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in wanted]
        flat = torch.cat([grad.flatten() for grad in grads])
        distributed.all_reduce(flat)
        for parameter, grad, part in zip(wanted, grads, flat.split([g.numel() for g in grads]), strict=True):
            parameter.grad = grad.copy_(part.view_as(grad))

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, on the CPU; all of one shape and type."""
        if self.size == 1:
            return [tensor]
        mine = tensor.to(_device())
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        distributed.all_gather(everyone, mine)
        return [one.cpu() for one in everyone]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Rank 0 goes through the block first, then the others: what it has made, they find. Sharded, all at once."""
        if not self.gathers:
            distributed.barrier()
        yield
        if self.leads and self.size > 1 and not self.shards:
            distributed.barrier()


ALONE = Ranks()


@contextmanager
def joined(launch: Launch, meeting: Path, *, shards: bool = False) -> Iterator[Ranks]:
    """Meet the other processes that the launcher started: NCCL between GPUs, gloo between CPUs. One shards nothing.

    `accelerate launch` and `torchrun` name an address where to meet; the worker, whose processes are of one machine,
    names none: they meet at the file `meeting`, which must not be there before.
    """
    if launch.world_size == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(launch.local_rank)
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        init_method="env://" if launch.master_addr else f"file://{meeting}",
        rank=launch.rank,
        world_size=launch.world_size,
    )
    try:
        yield Ranks(launch.rank, launch.world_size, shards)
    finally:
        distributed.destroy_process_group()


def _device() -> torch.device:
    """Where the backend takes its messages from."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")

"""The random numbers that a run draws, as its states hold them: those of the CPU, and of the GPU it computes on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from services.training.lora.ranks import Ranks


@dataclass(frozen=True)
class Generator:
    """One of torch's own generators, by what reads and sets its state: a tensor of bytes on the CPU."""

    get_state: Callable[[], Tensor]
    set_state: Callable[[Tensor], None]


def drawn_from(device: torch.device) -> dict[str, Generator]:
    """The generators of a run that computes on the device, by name: noise is drawn on the CPU, dropout where the
    layers are."""
    found = {"cpu": Generator(torch.get_rng_state, torch.set_rng_state)}
    if device.type == "cuda":
        set_state = partial(torch.cuda.set_rng_state, device=device)
        found["cuda"] = Generator(partial(torch.cuda.get_rng_state, device), set_state)
    return found


def gathered(device: torch.device, ranks: Ranks) -> dict[str, Tensor]:
    """Every rank's generators as they are now; every rank has to come."""
    return {
        _named(name, rank): state
        for name, generator in drawn_from(device).items()
        for rank, state in enumerate(ranks.gather(generator.get_state()))
    }


def restore(device: torch.device, rank: int, states: Mapping[str, Tensor]) -> None:
    """Draw on as the states say. A rank or a device that they know nothing of draws as at its start."""
    for name, generator in drawn_from(device).items():
        state = states.get(_named(name, rank))
        if state is not None:
            generator.set_state(state)


@contextmanager
def unchanged(device: torch.device) -> Iterator[None]:
    """Draw what follows afterwards as if nothing had been drawn in here."""
    before = [(generator, generator.get_state()) for generator in drawn_from(device).values()]
    try:
        yield
    finally:
        for generator, state in before:
            generator.set_state(state)


def _named(generator: str, rank: int) -> str:
    """What a state calls a rank's generator."""
    return f"{generator}{rank or ''}"

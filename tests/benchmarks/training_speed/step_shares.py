"""Where the time of our own step goes, and what it does without the shared prefixes."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from services.training.lora import packing
from services.training.lora.base_model import load_base
from services.training.lora.loop import Training
from services.training.lora.objectives import Loss, Objective, Supervised
from services.training.lora.packing import Group
from services.training.lora.tuned import make_trainable
from services.training.order import Stepped
from services.training.recipe import Recipe

_WARM_UP, _STEPS, _TURNS = 6, 4, 3
"""The first steps meet lengths for which the matrix library has no kernels yet: they would count as slow."""
_PHASES = ("forward", "backward", "optimiser")
_PRODUCTS = {"aten::mm", "aten::addmm", "aten::addmm_"}
_ATTENTION = {"aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::_softmax_backward_data"}
_COPIES = {"aten::copy_", "aten::cat", "aten::fill_", "aten::roll", "aten::index_select", "aten::index"}
_THIN = 64
"""The adapter's products have a side of its rank, at most this; every other side is longer."""
_LOSS = {"aten::_log_softmax", "aten::_log_softmax_backward_data", "aten::argmax"}


def lines(model_dir: Path, rows: list[Group], recipe: Recipe, threads: int) -> Iterator[str]:
    """Markdown: shares of a step by phase and by kind of work, then tokens a second with and without sharing."""
    with tempfile.TemporaryDirectory(prefix="uplift-shares-") as made:
        steps = Steps(Path(made), model_dir, rows, recipe, threads)
        with alone():
            steps.take(_WARM_UP)
        steps.take(_WARM_UP)
        yield from _shares(steps)
        turns = []
        for _ in range(_TURNS):
            shared = steps.take(_STEPS)
            with alone():
                turns.append((shared, steps.take(_STEPS)))
    told = ", ".join(f"{ours:.0f} and {without:.0f} ({ours / without:.2f}×)" for ours, without in turns)
    yield (
        f"Tokens a second with and without shared prefixes, in turns of {_STEPS} steps in one process: {told}. "
        "Without them every token of every example is computed."
    )


class Steps:
    """Our training step on a real model, a few at a time."""

    def __init__(self, folder: Path, model_dir: Path, rows: list[Group], recipe: Recipe, threads: int) -> None:
        torch.manual_seed(recipe.seed)
        self.model = load_base(model_dir)
        self._said: list[Stepped] = []
        self._threads = threads
        self._training = Training(
            model=self.model,
            tuned=make_trainable(self.model, recipe),
            objective=_Marked(Supervised(self.model)),
            recipe=recipe,
            train=rows,
            validation=[],
            base_model=model_dir.name,
            state_dir=folder / "states",
            checkpoint_dir=folder / "checkpoints",
            data_sha256="benchmark",
            emit=self._hear,
            should_stop=lambda: False,
            share=self,
        )
        self.model.whole.train()

    def threads(self) -> int:
        return self._threads

    def _hear(self, event: object) -> None:
        if isinstance(event, Stepped):
            self._said.append(event)

    def take(self, count: int) -> float:
        """Some steps; answers tokens a second."""
        taken = self._taken(count)
        return sum(step.tokens for step in taken) / sum(step.seconds for step in taken)

    def seconds(self, count: int) -> float:
        """Some steps; answers what they took together."""
        return sum(step.seconds for step in self._taken(count))

    def _taken(self, count: int) -> list[Stepped]:
        first = len(self._said)
        for _ in range(count):
            self._training._step(self._training.progress.step + 1)
        return self._said[first:]

    def profiled(self, count: int) -> tuple[Any, float]:
        """The profiler's events, with shapes, and the seconds that the steps took."""
        optimise = self._training.optimizer.step
        backward = Tensor.backward

        def marked_step(*rest: Any) -> Any:
            with record_function("optimiser"):
                return optimise(*rest)

        def marked_backward(*rest: Any, **more: Any) -> Any:
            with record_function("backward"):
                return backward(*rest, **more)

        with (
            mock.patch.object(self._training.optimizer, "step", marked_step),
            mock.patch.object(Tensor, "backward", marked_backward),
            profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found,
        ):
            seconds = self.seconds(count)
        return found.key_averages(group_by_input_shape=True), seconds


class _Marked:
    """An objective whose loss the profiler sees as `forward`."""

    def __init__(self, objective: Objective) -> None:
        self.weight, self.tokens, self._loss = objective.weight, objective.tokens, objective.loss

    def loss(self, groups: Sequence[Group]) -> Loss:
        with record_function("forward"):
            return self._loss(groups)


def alone() -> AbstractContextManager[object]:
    """No example is seen to begin as another does."""
    return mock.patch.object(packing, "shared_prefix", return_value=0)


def _shares(steps: Steps) -> Iterator[str]:
    unwatched = steps.seconds(_STEPS)
    events, seconds = steps.profiled(_STEPS)
    phases: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    vocabulary = int(steps.model.head.weight.shape[0])
    for event in events:
        if event.key in _PHASES:
            phases[event.key] += event.cpu_time_total / 1e6
        kind = _kind(event.key, event.input_shapes, vocabulary)
        if kind is not None:
            kinds[kind] += event.self_cpu_time_total / 1e6
    yield (
        f"Of {_STEPS} steps under torch.profiler, {seconds:.2f} s (without it the ones before took {unwatched:.2f} s; "
        "what it costs falls on the many small operations):"
    )
    yield f"- by phase: {_told(phases, seconds, 'preparing the packs and the rest')};"
    yield f"- by kind of work: {_told(kinds, seconds, 'Python and the bookkeeping of autograd')}."


def _told(found: Counter[str], seconds: float, rest: str) -> str:
    told = [f"{name} {value / seconds:.0%}" for name, value in found.most_common()]
    return ", ".join([*told, f"{rest} {1 - found.total() / seconds:.0%}"])


def _kind(name: str, shapes: list[list[int]], vocabulary: int) -> str | None:
    """What an operation works on; None for what is none: Python's functions and autograd's nodes."""
    if not name.startswith("aten::"):
        return None
    if name in _LOSS:
        return "cross-entropy"
    if name in _ATTENTION:
        return "attention"
    if name in _COPIES:
        return "casts and copies"
    if name not in _PRODUCTS:
        return "elementwise operations, sums and views"
    sizes = [size for shape in shapes for size in shape]
    if vocabulary in sizes:
        return "output head"
    return "products of the adapter" if min(sizes) <= _THIN else "products of frozen weights"

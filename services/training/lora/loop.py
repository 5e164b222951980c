"""The training loop: read it top to bottom. One optimiser step is one effective batch, cut into packs."""

import math
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from services.training.errors import NonFiniteLoss
from services.training.lora import checkpoints
from services.training.lora.adapter import Adapter
from services.training.lora.base_model import BaseModel
from services.training.lora.packing import TokenExample, pack, split_batch
from services.training.lora.plan import Plan
from services.training.lora.scoring import Tally, score_pack, score_set
from services.training.order import CheckpointSaved, Finished, Stepped
from services.training.recipe import Recipe

_REMEDY = "The last checkpoint is kept. Lower the learning rate or lengthen the warm-up, and look at its examples."


class Share(Protocol):
    """How many threads this process may compute with now."""

    def threads(self) -> int: ...


class StoppedEarly(Exception):
    """Somebody asked the run to stop; its checkpoint is written."""


@dataclass
class Progress:
    """What a run knows of itself; with the tensors, all that a checkpoint holds."""

    step: int = 0
    best_step: int = 0
    best_loss: float | None = None
    best_accuracy: float | None = None
    passes_without_gain: int = 0
    train_loss: float = math.nan
    trained_tokens: int = 0
    seconds: float = 0.0
    stopped_early: bool = False


@dataclass
class Training:
    """One run over a model that already carries its adapter."""

    model: BaseModel
    adapter: Adapter
    recipe: Recipe
    train: list[TokenExample]
    validation: list[TokenExample]
    checkpoint_dir: Path
    data_sha256: str
    emit: Callable[[Stepped | CheckpointSaved], None]
    should_stop: Callable[[], bool]
    share: Share
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plan = Plan(self.recipe, len(self.train))
        self.validation = evenly(self.validation, self.recipe.max_validation_examples)
        self.parameters = dict(self.adapter.named_parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=0.0, weight_decay=self.recipe.weight_decay, fused=True
        )

    def resume(self) -> int:
        """Go back to the newest whole checkpoint of this recipe and data, if there is one; answers its step."""
        found = checkpoints.load_newest(self.checkpoint_dir)
        if found is None or found.state["identity"] != self._identity():
            return 0
        self.adapter.load(found.tensors["adapter"])
        self.best = found.tensors.get("best", {})
        self._load_moments(found.tensors["optimizer"], found.state["progress"]["step"])
        torch.set_rng_state(found.tensors["random"]["cpu"])
        self.progress = Progress(**found.state["progress"])
        return self.progress.step

    def run(self) -> Finished:
        """Train to the end and leave the best weights in `best`; StoppedEarly after a checkpoint when asked to."""
        self.model.whole.train()
        while self.progress.step < self.plan.total_steps and not self.progress.stopped_early:
            if self.should_stop():
                self.save()
                raise StoppedEarly
            step = self._step(self.progress.step + 1)
            if self.plan.saves_after(step):
                self.save()
        progress = self.progress
        return Finished(
            steps=progress.step,
            best_step=progress.best_step,
            valid_loss=progress.best_loss,
            valid_mean_token_accuracy=progress.best_accuracy,
            train_loss=progress.train_loss,
            trained_tokens=progress.trained_tokens,
            train_seconds=progress.seconds,
            stopped_early=progress.stopped_early,
        )

    def save(self) -> None:
        """Write a checkpoint of this moment and say so."""
        moments = {
            f"{name}.{moment}": self.optimizer.state[parameter][moment]
            for name, parameter in self.parameters.items()
            if parameter in self.optimizer.state
            for moment in ("exp_avg", "exp_avg_sq")
        }
        groups = {"adapter": self.adapter.tensors(), "optimizer": moments, "random": {"cpu": torch.get_rng_state()}}
        if self.best:
            groups["best"] = self.best
        state = {"identity": self._identity(), "progress": asdict(self.progress)}
        kept = {name: group for name, group in groups.items() if group}
        folder = checkpoints.save(self.checkpoint_dir, self.progress.step, checkpoints.Checkpoint(kept, state))
        self.emit(CheckpointSaved(step=self.progress.step, folder=folder))

    def _step(self, step: int) -> int:
        began = time.perf_counter()
        torch.set_num_threads(self.share.threads())
        batch = [self.train[index] for index in self.plan.batch(step)]
        tally, computed = self._gradients(batch, step)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.max_grad_norm))
        if not (math.isfinite(tally.loss) and math.isfinite(norm)):
            raise NonFiniteLoss(
                f"The loss is {tally.mean_loss} and the gradient's norm {norm} at step {step}. {_REMEDY}"
            )
        rate = self.plan.learning_rate(step)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(len(example) for example in batch)
        progress = self.progress
        progress.step, progress.train_loss = step, tally.mean_loss
        progress.trained_tokens += tokens
        seconds = time.perf_counter() - began
        validated = self._validate(step) if self.plan.validates_after(step) else None
        progress.seconds += time.perf_counter() - began
        self.emit(
            Stepped(
                step=step,
                total_steps=self.plan.total_steps,
                epoch=self.plan.epoch(step),
                train_loss=tally.mean_loss,
                train_mean_token_accuracy=tally.accuracy,
                learning_rate=rate,
                gradient_norm=norm,
                tokens=tokens,
                computed_tokens=computed,
                seconds=seconds,
                memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                valid_loss=validated and validated.mean_loss,
                valid_mean_token_accuracy=validated and validated.accuracy,
            )
        )
        return step

    def _gradients(self, batch: list[TokenExample], step: int) -> tuple[Tally, int]:
        """Accumulate the gradient of the mean loss over all completion tokens of the effective batch."""
        tally, computed = Tally(), 0
        labels = sum(len(example.completion) for example in batch)
        for group in split_batch(batch, self.recipe.micro_batch_tokens):
            packed = pack(group)
            loss, correct = score_pack(self.model, packed)
            (loss / labels).backward()
            tally.add(loss.detach(), correct, packed.label_count)
            computed += len(packed.input_ids)
            if not math.isfinite(tally.loss):
                raise NonFiniteLoss(f"The loss is {tally.loss} at step {step}. {_REMEDY}")
        return tally, computed

    def _validate(self, step: int) -> Tally | None:
        if not self.validation:
            self.progress.best_step = step
            return None
        tally = score_set(self.model, self.validation, self.recipe.micro_batch_tokens)
        if not math.isfinite(tally.loss):
            raise NonFiniteLoss(f"The validation loss is {tally.loss} after step {step}. {_REMEDY}")
        progress = self.progress
        if progress.best_loss is None or tally.mean_loss < progress.best_loss:
            progress.best_loss, progress.best_accuracy = tally.mean_loss, tally.accuracy
            progress.best_step, progress.passes_without_gain = step, 0
            self.best = self.adapter.tensors()
        else:
            progress.passes_without_gain += 1
        patience = self.recipe.patience
        progress.stopped_early = patience is not None and progress.passes_without_gain >= patience
        return tally

    def _load_moments(self, moments: dict[str, Tensor], step: int) -> None:
        for name, parameter in self.parameters.items():
            if f"{name}.exp_avg" in moments:
                self.optimizer.state[parameter] = {
                    # fused AdamW keeps its step count as a float tensor
                    "step": torch.tensor(float(step)),
                    "exp_avg": moments[f"{name}.exp_avg"].to(parameter.device),
                    "exp_avg_sq": moments[f"{name}.exp_avg_sq"].to(parameter.device),
                }

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to belong to this run."""
        return {"recipe": self.recipe.model_dump(mode="json"), "data_sha256": self.data_sha256}


def evenly(examples: list[TokenExample], most: int) -> list[TokenExample]:
    """At most so many examples, spread evenly over the list."""
    if len(examples) <= most:
        return examples
    return [examples[int(i)] for i in np.linspace(0, len(examples) - 1, most)]

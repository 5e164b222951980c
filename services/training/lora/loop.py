"""The training loop: read it top to bottom. One optimiser step is one effective batch, cut into packs."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from services.training.domain import kept_checkpoints
from services.training.errors import NonFiniteLoss
from services.training.lora import explosion, generators, last_good, memory, states, whole_folders
from services.training.lora.base_model import BaseModel
from services.training.lora.objectives import Objective, score_noise, score_set
from services.training.lora.packing import Group, split_batch
from services.training.lora.plan import Plan
from services.training.lora.ranks import ALONE, Ranks
from services.training.lora.samples import drawn, evenly, sample_size
from services.training.lora.scoring import Tally
from services.training.lora.sharding import gathered, scattered, whole_of
from services.training.lora.surroundings import differences, surroundings
from services.training.lora.tuned import Tuned
from services.training.lora.workload import Workload
from services.training.order import CheckpointSaved, Finished, StateSaved, Stepped
from services.training.pace import Pace
from services.training.recipe import Recipe

_REMEDY = "Lower the learning rate or lengthen the warm-up, and look at the step's examples."
_CHECKPOINT_METRICS = (
    "step",
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)


class Share(Protocol):
    """How many threads this process may compute with now."""

    def threads(self) -> int: ...


class StoppedEarly(Exception):
    """Somebody asked the run to stop; its state is written."""


@dataclass
class Progress:
    """What a run knows of itself; with the tensors, all that a state holds."""

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
    """One run over a model that is already trainable."""

    model: BaseModel
    tuned: Tuned
    objective: Objective
    recipe: Recipe
    train: list[Group]
    validation: list[Group]
    base_model: str
    state_dir: Path
    checkpoint_dir: Path
    data_sha256: str
    emit: Callable[[Stepped | StateSaved | CheckpointSaved], None]
    should_stop: Callable[[], bool]
    share: Share
    ranks: Ranks = ALONE
    replay: list[Group] = field(default_factory=list)
    """What is replayed beside the training examples."""
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """Every step so far as it was said, so that what a dying worker had not yet recorded can be said again."""
    differs: dict[str, tuple[str, str]] = field(default_factory=dict)
    """How the surroundings of the resumed state differ from these, as (then, now)."""

    def __post_init__(self) -> None:
        self.train = drawn(self.train, self.recipe.train_share, self.recipe.seed)
        self.plan = Plan(self.recipe, len(self.train), len(self.replay))
        self.train_sample = evenly(self.train, sample_size(len(self.train), self.recipe))
        self.sample = evenly(self.validation, self.recipe.max_validation_examples)
        self.parameters = dict(self.tuned.named_parameters())
        if self.recipe.gradient_checkpointing:
            self.model.whole.gradient_checkpointing_enable({"use_reentrant": False})
        self.optimizer = torch.optim.AdamW(self._parameter_groups(), lr=0.0, fused=True)
        self.pace = Pace()
        self.workload = Workload(
            self.plan,
            self.train,
            self.replay,
            samples=[self.sample, *[self.train_sample] * (2 if self.recipe.disturbs else 1)] if self.sample else [],
            rest=self.validation if len(self.sample) < len(self.validation) else [],
            micro_batch_tokens=self.recipe.micro_batch_tokens,
            processes=self.ranks.size,
        )

    def resume(self) -> int:
        """Go back to the newest whole state of this recipe and data, if there is one; answers its step."""
        found = self._newest_state()
        self._check_same_step(0 if found is None else found.values["progress"]["step"])
        if found is None:
            return 0
        self.tuned.load(found.tensors["weights"])
        self.best = found.tensors.get("best", {})
        self._load_moments(found.tensors["optimizer"], found.values["progress"]["step"])
        generators.restore(self.model.device, self.ranks.rank, found.tensors["random"])
        self.progress = Progress(**found.values["progress"])
        self.history = found.values["history"]
        self.differs = differences(found.made_with, self._surroundings())
        return self.progress.step

    def _newest_state(self) -> states.State | None:
        found = states.load_newest(self.state_dir)
        return found if found is not None and found.values["identity"] == self._identity() else None

    def _check_same_step(self, step: int) -> None:
        if self.ranks.any(self.ranks.sum([step])[0] != step * self.ranks.size):
            raise RuntimeError(f"The ranks find different states in {self.state_dir}: it has to be one folder for all.")

    def say_again(self, recorded_step: int) -> None:
        """Emit the steps that came after `recorded_step`, and every checkpoint that still lies here."""
        for step in self.history[recorded_step:]:
            self.emit(Stepped.model_validate(step))
        for folder in reversed(whole_folders.newest_first(self.checkpoint_dir)):
            if whole_folders.step_of(folder) <= self.progress.step and whole_folders.verifies(folder):
                self._say_checkpoint(folder)

    def run(self) -> Finished:
        """Train to the end and leave the best weights in `best`; StoppedEarly after saving when asked to."""
        self.model.whole.train()
        while self.progress.step < self.plan.total_steps and not self.progress.stopped_early:
            if self.ranks.any(self.should_stop()):
                self.save()
                raise StoppedEarly
            step = self._sound_step(self.progress.step + 1)
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
        """Write the state of this moment and say so; every rank has to come."""
        random = generators.gathered(self.model.device, self.ranks)
        if not self.ranks.gathers:
            return
        began = time.perf_counter()
        moments = {
            f"{name}.{moment}": gathered(self.optimizer.state[parameter][moment])
            for name, parameter in self.parameters.items()
            if parameter in self.optimizer.state
            for moment in ("exp_avg", "exp_avg_sq")
        }
        groups = {"weights": self.tuned.tensors(), "optimizer": moments, "random": random}
        if not self.ranks.leads:
            return
        if self.best:
            groups["best"] = self.best
        values = {"identity": self._identity(), "progress": asdict(self.progress), "history": self.history}
        kept = {name: group for name, group in groups.items() if group}
        state = states.State(kept, values, self._surroundings())
        folder = states.save(self.state_dir, self.progress.step, state)
        self.pace.state_took(time.perf_counter() - began)
        self.emit(StateSaved(step=self.progress.step, folder=folder))

    def _sound_step(self, step: int) -> int:
        """A step; NonFiniteLoss, once the last good weights are kept as a checkpoint, if the loss went wrong in it."""
        try:
            self._step(step)
            explosion.check(self._losses())
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"{error.message} {self._keep_last_good()} {_REMEDY}") from error
        return step

    def _memory_bytes(self) -> int:
        return int(self.ranks.sum([memory.peak_bytes(self.model.device)])[0])

    def _losses(self) -> list[float]:
        return [entry["train_loss"] for entry in self.history]

    def _keep_last_good(self) -> str:
        if not self.ranks.leads:
            return ""
        found = last_good.find(self.history, self.checkpoint_dir, self._newest_state())
        if found is None:
            return "No checkpoint had been written before that."
        step, weights = found
        if weights is not None:
            self._keep_checkpoint(step, weights)
        return f"The checkpoint of step {step} is the last good one; it is kept as a model."

    def _step(self, step: int) -> None:
        """One optimiser step, with the validation and the checkpoint that follow it."""
        began = time.perf_counter()
        torch.set_num_threads(self.share.threads())
        batch = [self.train[index] for index in self.plan.batch(step)]
        again = [self.replay[index] for index in self.plan.replayed(step)]
        tally, replayed = self._gradients(batch, again)
        norm = float(whole_of(clip_grad_norm_(self.parameters.values(), self.recipe.max_grad_norm)))
        if not (math.isfinite(tally.loss) and math.isfinite(norm)):
            raise NonFiniteLoss(f"The loss is {tally.mean_loss} and the gradient's norm {norm} at step {step}.")
        rate = self.plan.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimizer.step()
        self.tuned.took_step()
        self.optimizer.zero_grad(set_to_none=True)
        replay_tokens = sum(map(self.objective.tokens, again))
        tokens = sum(map(self.objective.tokens, batch)) + replay_tokens
        progress = self.progress
        progress.step, progress.train_loss = step, tally.mean_loss
        progress.trained_tokens += tokens
        seconds = time.perf_counter() - began
        self.pace.step_took(seconds, tally.computed + replayed.computed)
        validates = self.plan.validates_after(step)
        validated, full = self._validate(step) if validates else (None, None)
        seen, noise = self._score_learned(step) if validated else (None, None)
        scored = [one for one in (validated, seen, noise, None if full is validated else full) if one is not None]
        if scored:
            self.pace.scoring_took(time.perf_counter() - began - seconds, sum(one.computed for one in scored))
        progress.seconds += time.perf_counter() - began
        self._say_step(
            Stepped(
                step=step,
                total_steps=self.plan.total_steps,
                epoch=self.plan.epoch(step),
                train_loss=tally.mean_loss,
                train_mean_token_accuracy=tally.accuracy,
                learning_rate=rate,
                gradient_norm=norm,
                tokens=tokens,
                computed_tokens=tally.computed + replayed.computed,
                replay_tokens=replay_tokens if again else None,
                replay_loss=replayed.mean_loss if again else None,
                seconds=seconds,
                memory_bytes=self._memory_bytes(),
                valid_loss=validated and validated.mean_loss,
                valid_loss_error=validated and validated.standard_error,
                train_eval_loss=seen and seen.mean_loss,
                train_eval_loss_error=seen and seen.standard_error,
                train_eval_noise=noise and noise.mean_loss,
                train_eval_noise_error=noise and noise.standard_error,
                valid_mean_token_accuracy=validated and validated.accuracy,
                full_valid_loss=full and full.mean_loss,
                full_valid_mean_token_accuracy=full and full.accuracy,
                train_reward_accuracy=tally.reward_accuracy,
                train_reward_margin=tally.reward_margin,
                valid_reward_accuracy=validated and validated.reward_accuracy,
                valid_reward_margin=validated and validated.reward_margin,
                seconds_left=self.pace.seconds_left(self.workload.ahead(step)),
            )
        )
        # wild weights do not take a good checkpoint's place
        if validates and (explosion.wild_since(self._losses()) is None or step == self.plan.total_steps):
            self._keep_checkpoint(step, self.tuned.kept())

    def _gradients(self, batch: list[Group], again: list[Group]) -> tuple[Tally, Tally]:
        """Accumulate the gradient of the effective batch's mean loss, over all ranks; sums of what is new and of
        what is replayed."""
        weight = self.objective.weight([*batch, *again])
        tallies = self._backward(batch, weight), self._backward(again, weight)
        self.ranks.sum_gradients(self.parameters.values())
        return self.ranks.sum_tally(tallies[0]), self.ranks.sum_tally(tallies[1])

    def _backward(self, groups: list[Group], weight: int) -> Tally:
        """Of this rank's part."""
        tally = Tally()
        for some in split_batch(self.ranks.part(groups), self.recipe.micro_batch_tokens):
            loss = self.objective.loss(some)
            (loss.total / weight).backward()
            tally.add(loss.tally)
        for some in self.ranks.idle(groups, self.recipe.micro_batch_tokens):
            (0 * self.objective.loss(some).total).backward()
        return tally

    def _validate(self, step: int) -> tuple[Tally | None, Tally | None]:
        """The sample's sums and, at the end or where the sample is all there is, those of all validation examples."""
        if not self.sample:
            self.progress.best_step = step
            return None, None
        tally = self._score(self.sample, step)
        progress = self.progress
        if progress.best_loss is None or tally.mean_loss < progress.best_loss:
            progress.best_loss, progress.best_accuracy = tally.mean_loss, tally.accuracy
            progress.best_step, progress.passes_without_gain = step, 0
            self.best = self.tuned.kept()
        else:
            progress.passes_without_gain += 1
        patience = self.recipe.patience
        progress.stopped_early = patience is not None and progress.passes_without_gain >= patience
        if len(self.sample) == len(self.validation):
            return tally, tally
        last = step == self.plan.total_steps or progress.stopped_early
        return tally, self._score(self.validation, step) if last else None

    def _score_learned(self, step: int) -> tuple[Tally, Tally | None]:
        """The sample's sums of training examples, and those of what the recipe's noise adds, if it has any."""
        if not self.recipe.disturbs:
            return self._score(self.train_sample, step), None
        ranks, most, groups = self.ranks, self.recipe.micro_batch_tokens, self.train_sample
        own = score_noise(self.model, self.objective, ranks.part(groups), most, ranks.idle(groups, most))
        return self._sound(ranks.sum_tally(own[0]), step), ranks.sum_tally(own[1])

    def _score(self, groups: list[Group], step: int) -> Tally:
        most = self.recipe.micro_batch_tokens
        own = score_set(self.model, self.objective, self.ranks.part(groups), most, self.ranks.idle(groups, most))
        return self._sound(self.ranks.sum_tally(own), step)

    def _sound(self, tally: Tally, step: int) -> Tally:
        if not math.isfinite(tally.loss):
            raise NonFiniteLoss(f"The validation loss is {tally.loss} after step {step}.")
        return tally

    def _say_step(self, stepped: Stepped) -> None:
        self.history.append(stepped.model_dump(mode="json", exclude={"event"}, exclude_none=True))
        self.emit(stepped)

    def _keep_checkpoint(self, step: int, weights: dict[str, Tensor]) -> None:
        if not self.ranks.leads:
            return
        began = time.perf_counter()

        def fill(folder: Path) -> None:
            self.tuned.save(folder, weights, self.base_model)

        folder = whole_folders.write(self.checkpoint_dir, step, fill, keep=self._kept_checkpoints)
        self.pace.checkpoint_took(time.perf_counter() - began)
        self._say_checkpoint(folder)

    def _kept_checkpoints(self, steps: list[int]) -> set[int]:
        """As many as stay usable when the job is done: the worker may be so far behind."""
        # a step beyond the history is of a run that went further than it could resume from
        measured = {step: self.history[step - 1].get("valid_loss") for step in steps if step <= len(self.history)}
        return kept_checkpoints(dict.fromkeys(steps) | measured)

    def _say_checkpoint(self, folder: Path) -> None:
        step = whole_folders.step_of(folder)
        metrics = {name: self.history[step - 1].get(name) for name in _CHECKPOINT_METRICS}
        self.emit(CheckpointSaved(step=step, folder=folder, metrics=metrics))

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters by their learning rate, as a multiple of the recipe's, and their weight decay."""
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, parameter in self.parameters.items():
            groups.setdefault(self.tuned.optimised(name, self.recipe), []).append(parameter)
        return [{"params": some, "rate": rate, "weight_decay": decay} for (rate, decay), some in groups.items()]

    def _load_moments(self, moments: dict[str, Tensor], step: int) -> None:
        for name, parameter in self.parameters.items():
            if f"{name}.exp_avg" in moments:
                self.optimizer.state[parameter] = {
                    # fused AdamW keeps its step count as a float tensor, on the parameter's device
                    "step": torch.tensor(float(step), dtype=torch.float32, device=parameter.device),
                    "exp_avg": scattered(moments[f"{name}.exp_avg"], parameter).to(parameter.device),
                    "exp_avg_sq": scattered(moments[f"{name}.exp_avg_sq"], parameter).to(parameter.device),
                }

    def _surroundings(self) -> dict[str, str]:
        own = {"processes": str(self.ranks.size), "shard": "full" if self.ranks.shards else "none"}
        return surroundings(self.model.device, self.model.dtype) | own

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a state to belong to this run: how it uses memory may differ."""
        recipe = self.recipe.model_dump(mode="json", exclude={"micro_batch_tokens", "gradient_checkpointing"})
        return {"recipe": recipe, "data_sha256": self.data_sha256}

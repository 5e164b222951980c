"""The training child: `python -m services.training.lora.run ORDER.json` trains and reports on standard output.

Several of them train together under `accelerate launch -m services.training.lora.run ORDER.json`.
"""

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from services.training.errors import InvalidRecipe, InvalidTrainingFile, NoTrainingExamples
from services.training.exhaustion import name_exhaustion
from services.training.fit import check_fit
from services.training.lora import leaks
from services.training.lora.adapter import shape_of
from services.training.lora.base_model import BaseModel, load_base
from services.training.lora.examples import read_rows, tokenize
from services.training.lora.loop import Share, StoppedEarly, Training
from services.training.lora.noise import Noise
from services.training.lora.objectives import ContinuedPretraining, Objective, Preference, Supervised, flat
from services.training.lora.output import write_adapter_folder
from services.training.lora.packing import Group
from services.training.lora.probe import Probe
from services.training.lora.ranks import ALONE, Ranks, joined
from services.training.lora.reference import cached_reference
from services.training.lora.rehearsal import rehearse
from services.training.lora.room import check_weights
from services.training.lora.sharding import check_shardable
from services.training.lora.token_cache import cached
from services.training.lora.tuned import check_start, make_trainable
from services.training.lora.windows import holds_texts, read_texts, windows_of
from services.training.order import HANDED_OVER, MEETING, ChildEvent, Failed, Started, TrainingOrder
from services.training.recipe import Recipe
from services.training.settings import Launch
from shared.compute import ComputeShare
from shared.errors import UpliftError

_PR_SET_PDEATHSIG = 1


def main(order_file: Path, parent: int | None = None) -> int:
    """Exit status: 0 done, 75 handed over after SIGTERM, 1 failed for the reason in the last event."""
    die_with_parent(parent)
    stop = _StopSignal()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    order, launch = TrainingOrder.model_validate_json(order_file.read_text()), Launch()
    try:
        with (
            ComputeShare(order.home, "training", fixed=order.threads) as share,
            joined(launch, order_file.with_name(MEETING), shards=order.shard == "full") as ranks,
        ):
            train(order, share, stop, ranks)
    except StoppedEarly:
        return HANDED_OVER
    except UpliftError as error:
        if launch.rank == 0:  # all ranks meet these; those of a rank alone are below
            say(Failed(code=error.code, message=error.message, param=error.param))
        return 1
    except (OSError, MemoryError, RuntimeError, SafetensorError) as error:
        named = name_exhaustion(error)
        if named is None:
            raise
        say(Failed(code=named.code, message=named.message))
        return 1
    return 0


def train(order: TrainingOrder, share: Share, stop: "_StopSignal", ranks: Ranks = ALONE) -> None:
    """Load, resume where a checkpoint allows, train, write the adapter folder."""
    torch.set_num_threads(share.threads())
    recipe = order.recipe
    if ranks.shards:
        check_shardable(recipe)
    if order.init_adapter_dir is not None:
        check_start(recipe, order.init_adapter_dir)
        if recipe.tune != "full":
            recipe = recipe.model_copy(update=shape_of(order.init_adapter_dir))
    torch.manual_seed(recipe.seed)
    tell = say if ranks.leads else _say_nothing
    if not ranks.shards:  # or else no process holds them all
        check_weights(order.model_dir, recipe, order.most_bytes, ranks)
    model = load_base(order.model_dir, recipe.tune, spread_later=ranks.shards)
    training, probe = prepare(order.model_copy(update={"recipe": recipe}), model, share, stop, ranks)
    training.pace.ending_seconds = 0.0 if probe is None else probe.seconds
    if not training.progress.step:  # a resumed run has shown that it fits
        estimate = rehearse(training, order.most_bytes)
        tell(estimate)
        check_fit(estimate, order.max_minutes, recipe)
    finished = training.run()
    if not ranks.gathers:
        return
    write_adapter_folder(order, training)
    if probe is not None:
        training.tuned.load(training.best or training.tuned.tensors())
        told = probe.compared()
        if told is not None:
            tell(told)
    tell(finished)


def prepare(
    order: TrainingOrder, model: BaseModel, share: Share, stop: "_StopSignal", ranks: Ranks = ALONE
) -> tuple[Training, Probe | None]:
    """Tokenise, attach the adapter, score general questions, resume, announce the run, and say again what the worker
    has not recorded."""
    recipe, tell = order.recipe, say if ranks.leads else _say_nothing
    examples, left_out = tokens_of(model, order, order.train_file, "training_file")
    validation: list[Group] = []
    left_out_too: list[int] = []
    if order.validation_file is not None:
        validation, left_out_too = tokens_of(model, order, order.validation_file, "validation_file")
    replay: list[Group] = []
    if order.replay_file is not None:
        replay, left_out_of_replay = tokens_of(model, order, order.replay_file, "replay_file")
        left_out_too = left_out_too + left_out_of_replay
    examples, replay, leaked = leaks.found(examples, validation, replay, leave_out=recipe.leave_out_leaked)
    tuned = make_trainable(model, recipe, order.init_adapter_dir, spread=ranks.shards)
    probe = Probe.of(model)  # with the weights that the run begins from, also where it goes on from a state
    with ranks.in_turn():  # the first keeps what it computes; the others read it
        objective = objective_of(order, model, [*examples, *validation], stop, ranks)
    ranks.draw_apart(recipe.seed)
    training = Training(
        model=model,
        tuned=tuned,
        objective=objective,
        recipe=recipe,
        train=examples,
        validation=validation,
        base_model=order.base_model,
        state_dir=order.state_dir,
        checkpoint_dir=order.checkpoint_dir,
        data_sha256=order.data_sha256,
        emit=tell,
        should_stop=stop.is_set,
        share=share,
        ranks=ranks,
        replay=replay,
    )
    resumed_from = training.resume()
    tell(
        Started(
            total_steps=training.plan.total_steps,
            train_examples=len(training.train),
            validation_examples=len(validation),
            replay_examples=len(replay),
            left_out=len(left_out) + len(left_out_too),
            longest=max([len(e) for e in flat([*examples, *validation, *replay])] + left_out + left_out_too),
            leaked=leaked,
            resumed_from=resumed_from,
            resumed_with=training.differs,
            precision="bfloat16" if model.dtype == torch.bfloat16 else "float32",
            device=str(model.device),
            trainable_parameters=sum(p.numel() for p in training.parameters.values()),
            recipe=recipe,
        )
    )
    training.say_again(order.recorded_step)
    return training, probe


def tokens_of(model: BaseModel, order: TrainingOrder, rows: Path, param: str) -> tuple[list[Group], list[int]]:
    """The rows as tokens and the lengths of those left out; an error names the job's field that the rows came from."""
    limit, folder = order.recipe.max_length, order.home / "cache" / "tokens"
    try:
        found = cached(folder, rows, order.model_dir, limit, lambda: _tokenized(model.tokenizer, rows, order.recipe))
    except (InvalidTrainingFile, NoTrainingExamples) as error:
        raise type(error)(f"{param}: {error.message}", param=param) from error
    _check_window(model, order, max((len(example) for example in flat(found[0])), default=0), param)
    return found


def _check_window(model: BaseModel, order: TrainingOrder, longest: int, param: str) -> None:
    """Refuse examples at positions that the model never saw: it would learn them badly, and serve none so long."""
    window = getattr(model.whole.config.get_text_config(), "max_position_embeddings", None)
    if window is not None and longest > window:
        raise InvalidRecipe(
            f"{param} has an example of {longest} tokens; {order.base_model} reads at most {window} "
            f"(max_position_embeddings). Set max_length to {window} or less (now {order.recipe.max_length}): longer "
            "examples are then left out, longer texts cut into more windows.",
            param="recipe.max_length",
        )


def _tokenized(tokenizer: Any, rows: Path, recipe: Recipe) -> tuple[list[Group], list[int]]:
    if holds_texts(rows):
        return windows_of(tokenizer, read_texts(rows), recipe.max_length), []
    return tokenize(tokenizer, read_rows(rows), recipe.max_length)


def objective_of(
    order: TrainingOrder, model: BaseModel, pairs: list[Group], stop: "_StopSignal", ranks: Ranks = ALONE
) -> Objective:
    """The recipe's objective.

    DPO's reference is the model as training finds it, before any state is resumed: the frozen base (a fresh adapter
    changes nothing), and with it the adapter to continue from where there is one, as in the paper's π_SFT.
    """
    recipe = order.recipe
    if recipe.objective == "supervised":
        return Supervised(model, Noise.of(recipe))
    if recipe.objective == "continued_pretraining":
        return ContinuedPretraining(model, Noise.of(recipe))

    def check() -> None:
        # sharded, all ranks compute and stop together; otherwise this one is in here alone
        if ranks.any(stop.is_set()) if ranks.shards else stop.is_set():
            raise StoppedEarly

    reference = cached_reference(
        order.state_dir.with_name("reference.safetensors"),
        identity=f"{order.data_sha256} {order.base_model} {order.init_adapter_dir} {recipe.max_length}",
        model=model,
        pairs=pairs,
        micro_batch_tokens=recipe.micro_batch_tokens,
        check=check,
        write=ranks.leads,
    )
    return Preference(model, recipe.beta, reference)


def say(event: ChildEvent) -> None:
    """One event to the worker; a worker that is gone has taken its listener with it, and so ends this process."""
    sys.stdout.write(event.model_dump_json() + "\n")
    sys.stdout.flush()


def _say_nothing(_event: ChildEvent) -> None:
    """Rank 0 speaks for all."""


def die_with_parent(parent: int | None) -> None:
    """Have the kernel kill this process when the worker dies, so that no orphan trains on under a lost lease."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere the broken pipe ends it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        sys.exit(1)  # the parent died before the kernel was asked


class _StopSignal:
    """Set by SIGTERM; the loop looks at it between steps."""

    def __init__(self) -> None:
        self._set = False
        signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, _number: int, _frame: object) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))

"""Whether a run fits this machine and its budget, judged by what two rehearsed steps took."""

from services.training.errors import DoesNotFit, ExceedsBudget
from services.training.order import Estimated
from services.training.recipe import Recipe

_GIB = 1 << 30


def check_fit(estimate: Estimated, max_minutes: float | None, recipe: Recipe) -> None:
    """DoesNotFit or ExceedsBudget, with what would help."""
    limit = estimate.limit_bytes
    if limit is not None and estimate.peak_bytes > limit:
        raise DoesNotFit(
            f"Training would take {gib(estimate.peak_bytes)} of memory, and {gib(limit)} are there for it. "
            f"{_less_memory(recipe, estimate)} Or stop other work on this machine."
        )
    if max_minutes is not None and estimate.seconds > 60 * max_minutes:
        raise ExceedsBudget(
            f"Training would take about {in_words(estimate.seconds)}, and max_minutes is {max_minutes:g}. "
            f"{_less_time(recipe, estimate, max_minutes)} Or give it more minutes.",
            param="max_minutes",
        )


def in_words(seconds: float) -> str:
    """A duration for people: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def told(estimate: Estimated) -> str:
    """The estimate as the job's events tell it."""
    return (
        f"Estimated before the first step: about {in_words(estimate.seconds)} at {estimate.tokens_per_second:.0f} "
        f"tokens/s, {gib(estimate.peak_bytes)} of memory"
    )


def _less_memory(recipe: Recipe, estimate: Estimated) -> str:
    """What of the recipe to lower, what helps most first."""
    advice = []
    if estimate.longest > recipe.micro_batch_tokens:
        advice.append(f"max_length (the longest example has {estimate.longest} tokens)")
    else:
        advice.append(f"micro_batch_tokens (now {recipe.micro_batch_tokens}; the effective batch stays)")
        advice.append(f"max_length (now {recipe.max_length})")
    if recipe.tune != "full":
        advice.append(f"rank (now {recipe.rank})")
    checkpointing = "" if recipe.gradient_checkpointing else ", or set gradient_checkpointing: true"
    smaller = {"full": ", or tune: lora, not every weight", "lora": ", or tune: qlora, the base in four bits"}
    return f"In the recipe, lower {', '.join(advice)}{checkpointing}{smaller.get(recipe.tune, '')}."


def _less_time(recipe: Recipe, estimate: Estimated, max_minutes: float) -> str:
    steps = int(estimate.total_steps * 60 * max_minutes / estimate.seconds)
    fits = f"max_steps to {steps}" if steps else "max_steps"
    off = ", or turn gradient_checkpointing off" if recipe.gradient_checkpointing else ""
    return (
        f"In the recipe, lower {fits} (now {estimate.total_steps} steps), epochs (now {recipe.epochs:g}), train_share "
        f"(now {recipe.train_share:g}) or max_length (now {recipe.max_length}){off}."
    )


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / _GIB:.2f} GiB"

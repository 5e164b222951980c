"""Whether `torch.compile` pays: our step as it is, and with every decoder layer compiled, in turns."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from services.training.lora.packing import Group
from services.training.recipe import Recipe
from tests.benchmarks.training_speed.step_shares import Steps

_WARM_UP, _STEPS, _TURNS = 6, 4, 3


def lines(model_dir: Path, rows: list[Group], recipe: Recipe, threads: int) -> Iterator[str]:
    """Markdown: seconds that compiling takes, then tokens a second of both, turn by turn.

    Packs differ in length from step to step, so the layers are compiled for any length (`dynamic=True`), by the first
    steps after that.
    """
    with tempfile.TemporaryDirectory(prefix="uplift-compiled-") as made:
        eager = Steps(Path(made) / "eager", model_dir, rows, recipe, threads)
        compiled = Steps(Path(made) / "compiled", model_dir, rows, recipe, threads)
        eager.take(_WARM_UP)
        for layer in compiled.model.whole.model.layers:
            layer.compile(dynamic=True)
        began = time.perf_counter()
        compiled.take(_WARM_UP)
        spent = time.perf_counter() - began
        turns = [(eager.take(_STEPS), compiled.take(_STEPS)) for _ in range(_TURNS)]
    told = ", ".join(f"{ours:.0f} and {theirs:.0f} ({theirs / ours:.2f}×)" for ours, theirs in turns)
    yield f"Tokens a second as it is and with `torch.compile`, in turns of {_STEPS} steps in one process: {told}."
    yield f"The first {_WARM_UP} steps after it took {spent:.0f} s."

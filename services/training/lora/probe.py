"""What a model could do before: its loss on a few general questions, so that forgetting shows after training.

The questions are in services/training/doctor/general.jsonl, written for this purpose.
"""

import math
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.training.errors import InvalidTrainingFile, NoChatTemplate, NoTrainingExamples
from services.training.lora.base_model import BaseModel
from services.training.lora.examples import read_rows, tokenize
from services.training.lora.objectives import evaluating, flat
from services.training.lora.packing import Group, pack, split_batch
from services.training.lora.scoring import log_likelihoods, score_pack
from services.training.order import Probed

GENERAL_QUESTIONS = Path(__file__).parents[1] / "doctor" / "general.jsonl"
_LONGEST = 256
_PACK_TOKENS = 512


class Probe:
    """The questions with each one's loss before anything was learned, in nats per token of the answer."""

    def __init__(self, model: BaseModel, groups: list[Group]) -> None:
        self._model, self._groups = model, groups
        began = time.perf_counter()
        self._before = self._losses()
        self.seconds = time.perf_counter() - began
        """What asking them takes."""

    @classmethod
    def of(cls, model: BaseModel, questions: Path = GENERAL_QUESTIONS) -> "Probe | None":
        """None for a model that is not asked in turns (without a chat template, or with one that refuses these)."""
        try:
            groups, _ = tokenize(model.tokenizer, read_rows(questions), _LONGEST)
        except (NoChatTemplate, NoTrainingExamples, InvalidTrainingFile):
            return None
        return cls(model, groups)

    def compared(self) -> Probed | None:
        """The questions' mean losses before and now, with the standard error of the mean difference.

        None where a loss is no number: JSON has none for it, and the run itself has succeeded.
        """
        after = self._losses()
        if not (np.isfinite(self._before).all() and np.isfinite(after).all()):
            return None
        change = after - self._before
        return Probed(
            questions=len(change),
            before=float(self._before.mean()),
            after=float(after.mean()),
            change_error=float(change.std(ddof=1)) / math.sqrt(len(change)) if len(change) > 1 else None,
        )

    def _losses(self) -> npt.NDArray[np.float64]:
        losses: list[float] = []
        with evaluating(self._model):
            for groups in split_batch(self._groups, _PACK_TOKENS):
                examples = flat(groups)
                packed = pack(examples)
                found = log_likelihoods(score_pack(self._model, packed), packed, len(examples)).tolist()
                losses += [-nats / len(one.completion) for nats, one in zip(found, examples, strict=True)]
        return np.array(losses)

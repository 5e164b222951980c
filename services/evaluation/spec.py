"""What an experiment was ordered to do, complete: nothing that decides its outcome is looked up later."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.body import Body
from shared.prompt_format import PromptSpec, Shot

VariantName = Literal["base", "base+prompt", "base+retrieval", "tuned", "raft+retrieval"]
BASELINE: VariantName = "base"
VARIANTS: tuple[VariantName, ...] = ("base", "base+prompt", "base+retrieval", "tuned", "raft+retrieval")
NEED_DOCUMENTS: tuple[VariantName, ...] = ("base+retrieval", "raft+retrieval")

SHORT_ANSWER = "Answer with the exact answer only: a word or a short phrase, no sentence, no explanation."
PLAIN_PROMPT = PromptSpec()
RETRIEVAL_PROMPT = PromptSpec(instruction="Answer the question from the reference passages.", with_passages=True)
"""One layout with and without the adapter, so that the two variants differ in the adapter alone."""

TRAIN_TUNED = "train tuned"
TRAIN_RAFT = "train raft"
"""The names of the two training steps."""

Recipe = str | dict[str, Any]


class RaftSpec(Body):
    """The retrieval-aware training set (RAFT, arXiv:2403.10131)."""

    model_config = ConfigDict(frozen=True)

    rows_limit: Annotated[int, Field(ge=1)] = 240
    """Training rows. A row with three passages is about ten times a plain one, so a few hundred is a CPU's budget."""
    k: Annotated[int, Field(ge=1, le=20)] = 3
    """Passages a row."""
    gold_share: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Share of rows that are sure to hold a gold passage; the rest teach the adapter that retrieval can fail."""
    recipe: Recipe = Field(default_factory=lambda: {"epochs": 1.0, "max_validation_examples": 48})
    """One pass: the adapter continues from the tuned one and has only to learn reading; validation rows are long."""


class ExperimentSpec(BaseModel):
    """An experiment's whole order. Equal specs on equal data are the same experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dataset_id: str
    vector_store_id: str | None = None
    base_model: str
    variants: tuple[VariantName, ...] = VARIANTS
    metric: str = "exact_match"
    """The primary metric: it chooses, and its comparisons with the baseline are the family that Holm corrects."""
    margin: float = 0.02
    """Differences smaller than this count as the same."""
    seed: int = 0
    recipe: Recipe = "default"
    raft: RaftSpec = RaftSpec()
    shots: tuple[Shot, ...] = ()
    """Worked examples from the train split, in the order in which a few-shot prompt takes them."""
    shot_counts: tuple[int, ...] = (0, 3, 6)
    retrieval_ks: tuple[int, ...] = (1, 3)
    max_passage_tokens: int = 256
    """All passages of one prompt together."""
    max_tokens: int | None = None
    """The longest answer; taken from the train split's references when it is not given."""
    validation_limit: int | None = None
    """Validation questions for the choices; None takes all."""
    release_as: str
    """The model id under which the winner is served if the test split calls it better."""


class Candidate(BaseModel):
    """One way to build a variant; validation chooses one candidate per variant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    variant: VariantName
    prompt: PromptSpec = PLAIN_PROMPT
    k: int | None = None
    """Passages retrieved, None for no retrieval."""
    trained_by: str | None = None
    """The step whose adapter it uses."""


def candidates(spec: ExperimentSpec) -> tuple[Candidate, ...]:
    """Every candidate of the wanted variants, in the order of the variants."""
    ks = sorted(set(spec.retrieval_ks))
    counts = sorted({min(count, len(spec.shots)) for count in spec.shot_counts})
    found = {
        "base": [Candidate(key="base", variant="base")],
        "base+prompt": [
            Candidate(key=f"base+prompt@{count}", variant="base+prompt", prompt=_engineered(spec.shots[:count]))
            for count in counts
        ],
        "base+retrieval": [
            Candidate(key=f"base+retrieval@{k}", variant="base+retrieval", prompt=RETRIEVAL_PROMPT, k=k) for k in ks
        ],
        "tuned": [Candidate(key="tuned", variant="tuned", trained_by=TRAIN_TUNED)],
        "raft+retrieval": [
            Candidate(
                key=f"raft+retrieval@{k}",
                variant="raft+retrieval",
                prompt=RETRIEVAL_PROMPT,
                k=k,
                trained_by=TRAIN_RAFT,
            )
            for k in ks
        ],
    }
    return tuple(candidate for name in VARIANTS if name in spec.variants for candidate in found[name])


def _engineered(shots: tuple[Shot, ...]) -> PromptSpec:
    return PromptSpec(instruction=SHORT_ANSWER, shots=shots)

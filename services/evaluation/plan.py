"""From an order to its steps, and from a step that may start to the command that does its work."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from services.evaluation.domain import Experiment, Step
from services.evaluation.spec import (
    PLAIN_PROMPT,
    RETRIEVAL_PROMPT,
    TRAIN_RAFT,
    TRAIN_TUNED,
    Candidate,
    ExperimentSpec,
    VariantName,
    candidates,
)
from shared.messages import (
    Command,
    CompareVariants,
    EvaluateVariant,
    OrderedVariant,
    OrderRaftDataset,
    OrderRelease,
    OrderTraining,
    OrderVariants,
    VariantRetrieval,
    VariantSampling,
    WriteReport,
)

BUILD_RAFT = "build raft dataset"
CHOOSE, COMPARE, RELEASE, REPORT = "choose", "compare", "release", "report"


@dataclass(frozen=True)
class EvaluationPlan:
    """The evaluation row that an evaluate step needs before its command can run."""

    id: str
    variant_id: str
    model: str
    split: str
    limit: int | None


def plan(spec: ExperimentSpec, new_id: Callable[[str], str]) -> dict[str, Step]:
    """Every step of the experiment, each after those it depends on.

    The order also decides who comes first where work queues up: training, the longest chain, is ordered before
    the evaluations of what needs no training, which then run beside it.
    """
    found = candidates(spec)
    return {step.name: step for step in [*_making(found, new_id), *_measuring(spec, found, new_id)]}


def command_for(spec: ExperimentSpec, experiment_id: str, experiment: Experiment, step: Step) -> Command:
    """The order for a step whose dependencies have all ended well."""
    match step.kind:
        case "train":
            return _training(spec, experiment, step)
        case "raft_dataset":
            return OrderRaftDataset(
                dataset_id=_subject(step),
                source_dataset_id=spec.dataset_id,
                vector_store_id=str(spec.vector_store_id),
                k=spec.raft.k,
                rows_limit=spec.raft.rows_limit,
                gold_share=spec.raft.gold_share,
                seed=spec.seed,
            )
        case "variants":
            return OrderVariants(variants=tuple(_variant(spec, experiment, c) for c in _of_step(spec, step)))
        case "evaluate":
            return EvaluateVariant(evaluation_id=_subject(step))
        case "compare":
            return CompareVariants(experiment_id=experiment_id)
        case "release":
            return _release(spec, experiment_id, experiment)
        case "report":
            return WriteReport(experiment_id=experiment_id)
        case "choose":
            raise ValueError("a choice is made where its validations end; no work is ordered for it")


def evaluation_plan(spec: ExperimentSpec, experiment: Experiment, step: Step) -> EvaluationPlan:
    """Which model an evaluate step asks, and which questions."""
    split = str(step.params["split"])
    model = variant_of(spec, experiment, step.params["variant"], step.params.get("candidate"))
    return EvaluationPlan(
        id=_subject(step),
        variant_id=model["variant_id"],
        model=model["model_id"],
        split=split,
        limit=spec.validation_limit if split == "validation" else None,
    )


def variant_of(
    spec: ExperimentSpec, experiment: Experiment, variant: str, candidate: str | None = None
) -> Mapping[str, str]:
    """`variant_id` and `model_id` of a candidate; without one, of the candidate that validation chose."""
    key = candidate or experiment.result(CHOOSE)["candidates"][variant]
    made_by = _variants_step(next(found for found in candidates(spec) if found.key == key))
    found: Mapping[str, str] = experiment.result(made_by)["variants"][key]
    return found


def validate_step(candidate: str) -> str:
    """The name of the step that measures a candidate on validation."""
    return f"validate {candidate}"


def test_step(variant: str) -> str:
    """The name of the step that opens the test split for a variant."""
    return f"test {variant}"


def _making(found: tuple[Candidate, ...], new_id: Callable[[str], str]) -> Iterator[Step]:
    trainings = {candidate.trained_by for candidate in found} - {None}
    if trainings:
        yield Step(TRAIN_TUNED, "train", params={"init": None})
    if TRAIN_RAFT in trainings:
        yield Step(BUILD_RAFT, "raft_dataset", subject_id=new_id("ds_"))
        yield Step(TRAIN_RAFT, "train", depends_on=(TRAIN_TUNED, BUILD_RAFT), params={"init": TRAIN_TUNED})
    for name in dict.fromkeys(_variants_step(candidate) for candidate in found):
        trained_by = next(candidate.trained_by for candidate in found if _variants_step(candidate) == name)
        yield Step(name, "variants", depends_on=(trained_by,) if trained_by else (), params={"trained_by": trained_by})


def _measuring(spec: ExperimentSpec, found: tuple[Candidate, ...], new_id: Callable[[str], str]) -> Iterator[Step]:
    for candidate in found:
        traits = {
            "split": "validation",
            "candidate": candidate.key,
            "variant": candidate.variant,
            "trained": candidate.trained_by is not None,
            "retrieves": candidate.k is not None,
        }
        made = (_variants_step(candidate),)
        yield Step(validate_step(candidate.key), "evaluate", made, traits, new_id("eval_"))
    yield Step(CHOOSE, "choose", tuple(validate_step(candidate.key) for candidate in found))
    variants = _in_order(spec, found)
    for name in variants:
        yield Step(test_step(name), "evaluate", (CHOOSE,), {"split": "test", "variant": name}, new_id("eval_"))
    yield Step(COMPARE, "compare", tuple(test_step(name) for name in variants))
    yield Step(RELEASE, "release", (COMPARE,))
    yield Step(REPORT, "report", (RELEASE,))


def _in_order(spec: ExperimentSpec, found: tuple[Candidate, ...]) -> list[VariantName]:
    return [name for name in dict.fromkeys(candidate.variant for candidate in found) if name in spec.variants]


def _variants_step(candidate: Candidate) -> str:
    return f"create variants of {candidate.trained_by.removeprefix('train ') if candidate.trained_by else 'base'}"


def _of_step(spec: ExperimentSpec, step: Step) -> list[Candidate]:
    return [candidate for candidate in candidates(spec) if _variants_step(candidate) == step.name]


def _training(spec: ExperimentSpec, experiment: Experiment, step: Step) -> OrderTraining:
    raft = step.name == TRAIN_RAFT
    prompt = RETRIEVAL_PROMPT if raft else PLAIN_PROMPT
    init = step.params["init"]
    return OrderTraining(
        dataset_id=experiment.result(BUILD_RAFT)["dataset_id"] if raft else spec.dataset_id,
        base_model=spec.base_model,
        recipe=spec.raft.recipe if raft else spec.recipe,
        prompt=prompt.model_dump(mode="json"),
        max_passage_tokens=spec.max_passage_tokens if raft else None,
        init_adapter_id=experiment.result(init)["adapter_id"] if init else None,
        suffix="raft" if raft else "tuned",
        seed=spec.seed,
    )


def _variant(spec: ExperimentSpec, experiment: Experiment, candidate: Candidate) -> OrderedVariant:
    retrieval = None
    if candidate.k is not None:
        retrieval = VariantRetrieval(
            vector_store_id=str(spec.vector_store_id), k=candidate.k, max_passage_tokens=spec.max_passage_tokens
        )
    return OrderedVariant(
        key=candidate.key,
        name=f"{spec.name} {candidate.key}",
        base_model=spec.base_model,
        adapter_id=experiment.result(candidate.trained_by)["adapter_id"] if candidate.trained_by else None,
        prompt=candidate.prompt.model_dump(mode="json"),
        retrieval=retrieval,
        sampling=VariantSampling(temperature=0.0, max_tokens=_longest_answer(spec)),
    )


def _longest_answer(spec: ExperimentSpec) -> int:
    if spec.max_tokens is None:
        raise ValueError("the length of answers is settled when an experiment is created")
    return spec.max_tokens


def _release(spec: ExperimentSpec, experiment_id: str, experiment: Experiment) -> OrderRelease:
    compared = experiment.result(COMPARE)
    evidence: dict[str, Any] = {"experiment_id": experiment_id, "dataset_id": spec.dataset_id}
    return OrderRelease(
        model_id=spec.release_as,
        variant_id=variant_of(spec, experiment, compared["winner"])["variant_id"],
        evidence=evidence | {"comparison": dict(compared.get("comparison") or {})},
    )


def _subject(step: Step) -> str:
    if step.subject_id is None:
        raise ValueError(f"the step {step.name!r} was planned without the row that it makes")
    return step.subject_id

"""From an experiment's rows to its report: gather what it says, build it, render and store it."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from services.evaluation import manifest, material, plan, repository
from services.evaluation import report as reports
from services.evaluation.domain import Experiment
from services.evaluation.spec import (
    BASELINE,
    TRAIN_RAFT,
    TRAIN_TUNED,
    VARIANTS,
    Candidate,
    ExperimentSpec,
    VariantName,
    candidates,
)
from services.evaluation.tables import Answer, ExperimentRow
from shared.clock import now
from shared.storage import Storage
from shared.wiring import Wiring

_CONTINUES = "raft+retrieval continues from the tuned adapter: its training seconds come on top of tuned's."
_LATENCY = "Latencies are those of many questions at once on this machine, from admission to the last token."
_GATE = "The release gate is the domain score alone: what the model forgot of other things is not measured yet."


def gather(session: Session, wiring: Wiring, experiment_id: str) -> reports.ReportInputs:
    """Everything that the report is computed from; pure values."""
    row = repository.experiment(session, experiment_id)
    spec = ExperimentSpec.model_validate(row.spec)
    state = repository.state(row, repository.steps(session, row.id))
    dataset = material.dataset(session, spec.dataset_id)
    corpus = material.corpus(session, spec.vector_store_id) if spec.vector_store_id else None
    base = manifest.model(wiring.settings, spec.base_model)
    return reports.ReportInputs(
        experiment_id=row.id,
        name=row.name,
        dataset=reports.Dataset(id=dataset.id, sha256=dataset.sha256, sizes=dict(dataset.sizes), name=dataset.name),
        corpus=None
        if corpus is None
        else reports.Corpus(id=corpus.id, documents=corpus.documents, passages=corpus.passages, sha256=corpus.sha256),
        base_model=spec.base_model,
        variants=_variants(session, spec, state),
        seed=spec.seed,
        looks_at_test=repository.looks(session, dataset.sha256),
        manifest=_manifest(session, wiring, row, state, dataset, corpus, base),
        baseline=BASELINE,
        winner=state.result(plan.CHOOSE)["winner"],
        choices=_choices(spec, state),
        notes=_notes(spec, base),
        metric=spec.metric,
        margin=spec.margin,
        wall_seconds=round((now() - row.created_at).total_seconds(), 1),
    )


def build(inputs: reports.ReportInputs) -> dict[str, Any]:
    """The report as JSON values."""
    return reports.build_report(inputs).model_dump(mode="json")


def outcome(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the experiment must know to go on: the winner, what test says of it, and the comparison that says so."""
    winner = report["winner"]
    own = [c for c in report["comparisons"] if c["family"] == "primary" and c["variant"] == winner]
    comparison = own[0] if own else None
    return {
        "winner": winner,
        "verdict": comparison["verdict"] if comparison else None,
        "comparison": comparison,
    }


def finished(session: Session, experiment_id: str) -> dict[str, Any]:
    """The report with the release that followed from it, if one did."""
    found = repository.report(session, experiment_id)
    if found is None:
        raise LookupError(f"experiment {experiment_id} has no report to finish: its comparison did not store one")
    report = reports.Report.model_validate(found.report)
    row = repository.experiment(session, experiment_id)
    step = repository.state(row, repository.steps(session, row.id)).steps[plan.RELEASE]
    if step.status != "succeeded" or step.result is None:
        return report.model_dump(mode="json")
    release = reports.Release(model=step.result["model_id"], variant=str(report.winner), id=step.result["release_id"])
    return report.with_release(release).model_dump(mode="json")


def render(storage: Storage, project_id: str, report: Mapping[str, Any]) -> dict[str, str]:
    """Store both pages; answers their blob keys by the reports table's column."""
    found = reports.Report.model_validate(report)
    pages = {"markdown_key": reports.to_markdown(found), "html_key": reports.to_html(found)}
    return {column: storage.put_bytes(project_id, page.encode()).key for column, page in pages.items()}


def _variants(session: Session, spec: ExperimentSpec, state: Experiment) -> list[reports.VariantInputs]:
    examples = {one.id: one for one in material.examples(session, spec.dataset_id, "test")}
    made = []
    for name in _wanted(spec):
        evaluation_id = str(state.steps[plan.test_step(name)].subject_id)
        training = _training_of(name, state)
        made.append(
            reports.VariantInputs(
                name=name,
                model=plan.variant_of(spec, state, name)["model_id"],
                records=[_record(answer, examples) for answer in repository.answers(session, evaluation_id)],
                train_seconds=training.get("train_seconds") or 0.0,
                trained_tokens=training.get("trained_tokens") or 0,
            )
        )
    return made


def _record(answer: Answer, examples: Mapping[str, material.Example]) -> reports.ExampleRecord:
    example = examples[answer.example_id]
    return reports.ExampleRecord(
        example_id=example.id,
        cluster=example.cluster,
        question=example.question,
        reference=example.answer,
        answer=answer.answer,
        scores=answer.scores,
        latency_ms=answer.latency_ms,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        slices={key: str(value) for key, value in example.metadata.items() if isinstance(value, str | int | bool)},
        retrieval_hit=answer.retrieval_hit,
    )


def _training_of(variant: str, state: Experiment) -> Mapping[str, Any]:
    step = {"tuned": TRAIN_TUNED, "raft+retrieval": TRAIN_RAFT}.get(variant)
    return state.result(step) if step else {}


def _choices(spec: ExperimentSpec, state: Experiment) -> list[reports.Choice]:
    chosen = state.result(plan.CHOOSE)
    found = candidates(spec)
    made = [_choice(name, [c for c in found if c.variant == name], chosen, state) for name in _wanted(spec)]
    finalists = [c for c in found if chosen["candidates"][c.variant] == c.key]
    winner = reports.Choice(
        what="winner",
        candidates=[_candidate(c, state, name=c.variant) for c in finalists],
        chosen=chosen["winner"],
        reason="The best on validation; of equals the cheaper.",
    )
    return [choice for choice in made if len(choice.candidates) > 1] + [winner]


def _choice(name: VariantName, found: list[Candidate], chosen: Mapping[str, Any], state: Experiment) -> reports.Choice:
    reason = "The best on validation; of equals the one with the shorter prompt."
    own = [_candidate(candidate, state) for candidate in found]
    return reports.Choice(what=name, candidates=own, chosen=chosen["candidates"][name], reason=reason)


def _candidate(candidate: Candidate, state: Experiment, *, name: str | None = None) -> reports.Candidate:
    measured = state.result(plan.validate_step(candidate.key))
    detail = f"{measured['examples']} questions, {measured['prompt_tokens']:.0f} prompt tokens"
    return reports.Candidate(name=name or candidate.key, score=measured["metrics"][state.metric], detail=detail)


def _manifest(
    session: Session,
    wiring: Wiring,
    row: ExperimentRow,
    state: Experiment,
    dataset: material.Dataset,
    corpus: material.Corpus | None,
    base: Mapping[str, Any],
) -> dict[str, Any]:
    trained = {name: state.result(name)["adapter_id"] for name in (TRAIN_TUNED, TRAIN_RAFT) if name in state.steps}
    facts = material.adapters(session, list(trained.values()))
    chosen = set(state.result(plan.CHOOSE)["candidates"].values())
    spec = ExperimentSpec.model_validate(row.spec)
    code = manifest.code(wiring.settings)
    return {
        "code_commit": code["commit"],
        "code_dirty": code["dirty"],
        "versions": manifest.versions(),
        "machine": manifest.machine(),
        "hashes": {
            "dataset": dataset.sha256,
            "corpus": corpus.sha256 if corpus else None,
            "base_model": base["weights_sha256"],
        },
        "models": {"base": base, "embedder": manifest.model(wiring.settings, corpus.embedder) if corpus else None},
        "adapters": {name: _adapter(facts.get(adapter_id), adapter_id) for name, adapter_id in trained.items()},
        "prompts": {c.key: c.prompt.model_dump(mode="json") for c in candidates(spec) if c.key in chosen},
        "order": row.spec,
        "seed": spec.seed,
    }


def _adapter(facts: Mapping[str, Any] | None, adapter_id: str) -> dict[str, Any]:
    known = ("model_id", "job_id", "dataset_id", "recipe", "metrics", "train_seconds", "trained_tokens")
    return {"id": adapter_id, **({key: facts[key] for key in known} if facts else {})}


def _notes(spec: ExperimentSpec, base: Mapping[str, Any]) -> list[str]:
    origin = [f"Base model: {base['provenance']}."] if "provenance" in base else []
    continues = [_CONTINUES] if "raft+retrieval" in spec.variants and "tuned" in spec.variants else []
    return [*origin, *continues, _LATENCY, _GATE]


def _wanted(spec: ExperimentSpec) -> list[VariantName]:
    return [name for name in VARIANTS if name in spec.variants]

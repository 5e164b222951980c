"""Use cases of evaluation: order an experiment, steer it, evaluate a variant, compare, report."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy.orm import Session

from services.evaluation import answering, asking, domain, material, plan, reporting, repository, sampling
from services.evaluation.errors import EmptySplit, UnknownMetric
from services.evaluation.metrics import METRICS
from services.evaluation.spec import ExperimentSpec
from services.evaluation.tables import Evaluation, ExperimentRow, StepRow
from shared import jobs, quotas
from shared.ids import new_id
from shared.jobs import JobContext, JobHandler
from shared.jobs.control import JobAlreadyEnded
from shared.messages import AdvanceExperiment, Command, CompareVariants, EvaluateVariant, WriteReport
from shared.settings import Settings


@dataclass(frozen=True)
class SingleEvaluation:
    """An evaluation asked for by itself."""

    model: str
    variant_id: str | None
    dataset_id: str
    split: str
    metric: str
    limit: int | None
    seed: int
    max_tokens: int | None


def create_experiment(session: Session, project_id: str, spec: ExperimentSpec, settings: Settings) -> ExperimentRow:
    """Check that everything is there, plan every step, order the first ones."""
    require_metric(spec.metric)
    quotas.check_tokens(session, settings)
    found = material.dataset(session, spec.dataset_id)
    material.require_splits(found, ["train", "validation", "test"])
    if spec.vector_store_id is not None:
        material.corpus(session, spec.vector_store_id)
    train = material.examples(session, spec.dataset_id, "train")
    most = max(spec.shot_counts, default=0)
    spec = spec.model_copy(update={"shots": spec.shots or sampling.shots(train, most, spec.seed)})
    if spec.max_tokens is None:
        spec = spec.model_copy(update={"max_tokens": sampling.answer_budget(train)})
    row = ExperimentRow(id=new_id("exp_"), project_id=project_id, name=spec.name, dataset_id=spec.dataset_id)
    row.vector_store_id, row.base_model = spec.vector_store_id, spec.base_model
    row.spec, row.status = spec.model_dump(mode="json"), "running"
    steps = plan.plan(spec, new_id).values()
    trainings = sum(step.kind == "train" for step in steps)
    quotas.claim_training(session, project_id, settings, jobs=trainings)
    if trainings:
        quotas.check_storage(session, project_id, settings)
    repository.add_experiment(session, row, steps)
    _move(session, row)
    return row


def cancel_experiment(session: Session, experiment_id: str) -> ExperimentRow:
    """Stop the experiment and every job it still waits for; one that is over stays as it is."""
    row = repository.experiment(session, experiment_id, lock=True)
    found = repository.steps(session, row.id)
    became, actions = domain.cancel(repository.state(row, found))
    _carry_out(session, row, found, became, actions)
    return row


def advance_experiment(context: JobContext, event: AdvanceExperiment) -> None:
    """A job of an experiment ended: record it, order what may start now."""
    with context.transaction() as session:
        if event.parent_id is not None:
            row = repository.experiment(session, event.parent_id, lock=True)
            _move(session, row, event)
        context.succeed(session, {"experiment_id": event.parent_id})


def create_evaluation(session: Session, project_id: str, order: SingleEvaluation, settings: Settings) -> Evaluation:
    """Evaluate one model on one split, outside any experiment."""
    require_metric(order.metric)
    quotas.check_tokens(session, settings)
    material.require_splits(material.dataset(session, order.dataset_id), [order.split])
    row = Evaluation(id=new_id("eval_"), project_id=project_id, job_id=new_id("job_"), purpose="single")
    row.variant_id, row.model = order.variant_id, order.model
    row.dataset_id, row.split, row.metric = order.dataset_id, order.split, order.metric
    row.examples_limit, row.seed, row.max_tokens = order.limit, order.seed, order.max_tokens
    repository.add_evaluation(session, row)
    command = EvaluateVariant(evaluation_id=row.id)
    jobs.send(session, project_id, command, job_id=row.job_id, subject_id=row.id)
    return row


def evaluate_variant(context: JobContext, command: EvaluateVariant) -> None:
    """Ask every question that has no answer yet, score, store; a second run goes on where the first stopped."""
    with context.transaction() as session:
        row = repository.evaluation(session, command.evaluation_id)
        dataset = material.dataset(session, row.dataset_id)
        if row.split == "test":
            repository.record_look(session, row, dataset.sha256)
        examples = sampling.drawn(material.examples(session, row.dataset_id, row.split), row.examples_limit, row.seed)
        variant = material.variant(session, id=row.variant_id) if row.variant_id else None
        done = repository.answered(session, row.id)
    if not examples:
        raise EmptySplit(f"Dataset {row.dataset_id} has no examples in {row.split}.", param="split")
    todo = [example for example in examples if example.id not in done]
    context.progress(len(done), len(examples), "answers")
    retrieves = bool(variant and variant["retrieval"])
    check = partial(asking.check_job, context)
    check()
    for rows in answering.ask(context.wiring.live, row, todo, retrieves=retrieves, check=check):
        with context.transaction() as session:
            quotas.add_tokens(session, context.project_id, repository.add_answers(session, rows))
        done |= {answer["example_id"] for answer in rows}
        context.progress(len(done), len(examples), "answers", row.model)
    with context.transaction() as session:
        summary = answering.summarise(repository.answers(session, row.id))
        repository.save_summary(session, row.id, summary)
        context.succeed(session, {"evaluation_id": row.id, **summary})


def compare_variants(context: JobContext, command: CompareVariants) -> None:
    """Build the report without its release; the winner's verdict decides whether there will be one."""
    # only read, and not in the job's own transaction: hashing a large model's weights takes longer than that may idle
    with context.wiring.database.transaction(context.project_id) as session:
        inputs = reporting.gather(session, context.wiring, command.experiment_id)
    report = reporting.build(inputs)
    with context.transaction() as session:
        repository.save_report(session, context.project_id, command.experiment_id, report=report)
        context.succeed(session, reporting.outcome(report))


def write_report(context: JobContext, command: WriteReport) -> None:
    """Name the release in the report and render it."""
    with context.transaction() as session:
        report = reporting.finished(session, command.experiment_id)
    keys = reporting.render(context.wiring.storage, context.project_id, report)
    with context.transaction() as session:
        repository.save_report(session, context.project_id, command.experiment_id, report=report, **keys)
        context.succeed(session, {"experiment_id": command.experiment_id, **keys})


def require_metric(name: str) -> None:
    """Raise UnknownMetric unless `name` can choose between variants: a share of which more is better."""
    able = [metric.name for metric in METRICS.values() if metric.share and metric.more_is_better]
    if name not in able:
        raise UnknownMetric(f"{name!r} cannot be the metric; there are {', '.join(able)}.", param="metric")


def _move(session: Session, row: ExperimentRow, event: AdvanceExperiment | None = None) -> None:
    found = repository.steps(session, row.id)
    became, actions = domain.advance(repository.state(row, found), _ended(found, event) if event else None)
    _carry_out(session, row, found, became, actions)


def _ended(found: Sequence[StepRow], event: AdvanceExperiment) -> domain.Ended | None:
    step = next((step for step in found if step.job_id == event.job_id), None)
    return domain.Ended(step.name, event.status, event.result, event.error) if step is not None else None


def _carry_out(
    session: Session,
    row: ExperimentRow,
    found: Sequence[StepRow],
    became: domain.Experiment,
    actions: Sequence[domain.Action],
) -> None:
    by_name = {step.name: step for step in found}
    for action in actions:
        if isinstance(action, domain.Start):
            by_name[action.step.name].job_id = _order(session, row, became, action.step)
        else:
            _stop(session, by_name[action.step.name])
    repository.save_state(session, row, found, became)


def _order(session: Session, row: ExperimentRow, became: domain.Experiment, step: domain.Step) -> str:
    """Send the step's command; its end comes back as AdvanceExperiment. Answers the job's id."""
    spec = ExperimentSpec.model_validate(row.spec)
    command: Command = plan.command_for(spec, row.id, became, step)
    job_id = new_id("ftjob-" if step.kind == "train" else "job_")
    if step.kind == "evaluate":
        _add_evaluation(session, row, spec, plan.evaluation_plan(spec, became, step), job_id)
    sent = jobs.send(
        session,
        row.project_id,
        command,
        job_id=job_id,
        subject_id=step.subject_id or (job_id if step.kind == "train" else row.id),
        parent_id=row.id,
        notify=AdvanceExperiment,
        dedupe_key=f"{row.id}:{step.name}",
    )
    return sent.id


def _add_evaluation(
    session: Session, row: ExperimentRow, spec: ExperimentSpec, wanted: plan.EvaluationPlan, job_id: str
) -> None:
    made = Evaluation(id=wanted.id, project_id=row.project_id, experiment_id=row.id, job_id=job_id)
    made.variant_id, made.model, made.split = wanted.variant_id, wanted.model, wanted.split
    made.purpose = "test" if wanted.split == "test" else "choice"
    made.dataset_id, made.metric, made.seed = spec.dataset_id, spec.metric, spec.seed
    made.examples_limit, made.max_tokens = wanted.limit, spec.max_tokens
    repository.add_evaluation(session, made)


def _stop(session: Session, step: StepRow) -> None:
    if step.job_id is None:
        return
    try:
        jobs.cancel(session, step.job_id)
    except JobAlreadyEnded:
        # its end is on the way to us and is recorded when it arrives
        return


JOB_HANDLERS: dict[type[Command], JobHandler] = {
    EvaluateVariant: evaluate_variant,
    AdvanceExperiment: advance_experiment,
    CompareVariants: compare_variants,
    WriteReport: write_report,
}

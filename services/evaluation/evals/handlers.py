"""Use cases of Evals over HTTP: make, change and delete evals; order, cancel and delete runs."""

from typing import Any

from sqlalchemy.orm import Session

from services.evaluation.errors import EvalNotFound, EvalRunNotFound, InvalidTemplate
from services.evaluation.evals import repository, source, templates
from services.evaluation.evals.domain import asks_models
from services.evaluation.evals.item_schemas import Rows, check_schema, whole
from services.evaluation.evals.run_schemas import CreateRun, DataSource, FileContent, ItemReference, Jsonl
from services.evaluation.evals.schemas import CreateEval, UpdateEval
from services.evaluation.evals.tables import EvalRow, EvalRunRow
from shared import jobs, quotas
from shared.ids import new_id
from shared.jobs import TERMINAL
from shared.messages import RunEval
from shared.settings import Settings


def check_eval(order: CreateEval) -> None:
    """Raise what is wrong with an order: a schema that is none, a template that cannot find what it names.

    A schema can take seconds to check, so no transaction is open meanwhile.
    """
    config = order.data_source_config
    check_schema(config.item_schema, param="data_source_config.item_schema")
    schema = whole(config.item_schema, with_sample=config.include_sample_schema)
    for number, criterion in enumerate(order.testing_criteria):
        for field, text in criterion.templates():
            _check_template(
                text, schema, of=f"Criterion {criterion.name!r}", param=f"testing_criteria.{number}.{field}"
            )


def create_eval(session: Session, project_id: str, order: CreateEval) -> EvalRow:
    """Keep what good answers are, once the order is checked."""
    config = order.data_source_config
    row = EvalRow(id=new_id("eval_"), project_id=project_id, name=order.name, metadata_=order.metadata)
    row.item_schema, row.include_sample_schema = config.item_schema, config.include_sample_schema
    row.testing_criteria = [criterion.model_dump(exclude_none=True) for criterion in order.testing_criteria]
    repository.add(session, row)
    return row


def update_eval(session: Session, eval_id: str, change: UpdateEval) -> EvalRow:
    """Rename it, or give it other metadata."""
    row = repository.evaluation(session, eval_id, lock="change")
    columns = {"name": "name", "metadata": "metadata_"}
    repository.update(session, row, {columns[name]: getattr(change, name) for name in sorted(change.model_fields_set)})
    return row


def delete_eval(session: Session, eval_id: str) -> None:
    """Delete it with its runs; those still at work are cancelled."""
    row = repository.evaluation(session, eval_id)
    for job_id in repository.run_jobs(session, eval_id):
        _stop(session, job_id)
    if not repository.delete(session, row):
        raise EvalNotFound(f"There is no eval {eval_id!r} in this project.", param="eval_id")


def check_rows(item_schema: dict[str, Any], ordered: DataSource) -> None:
    """Raise InvalidItem for rows of the order that the eval's schema does not allow; like `check_eval`, on its own."""
    if isinstance(ordered.source, FileContent):
        source.from_content(ordered.source, Rows(item_schema))


def create_run(session: Session, project_id: str, eval_id: str, order: CreateRun, settings: Settings) -> EvalRunRow:
    """Order a pass over the data source, once its rows are checked and all else that can be known of it is right."""
    found = repository.evaluation(session, eval_id, lock="keep")
    if not isinstance(order.data_source, Jsonl) or asks_models(found.testing_criteria):
        quotas.check_tokens(session, settings)
    _check_source(session, found, order.data_source)
    row = EvalRunRow(id=new_id("evalrun_"), project_id=project_id, eval_id=eval_id, job_id=new_id("job_"))
    row.name, row.metadata_ = order.name, order.metadata
    row.model = None if isinstance(order.data_source, Jsonl) else order.data_source.model
    row.data_source = order.data_source.model_dump(mode="json", by_alias=True, exclude_unset=True)
    repository.add(session, row)
    jobs.send(session, project_id, RunEval(eval_run_id=row.id), job_id=row.job_id, subject_id=row.id)
    return row


def cancel_run(session: Session, eval_id: str, run_id: str) -> EvalRunRow:
    """Stop it; what is graded is kept. Raises JobAlreadyEnded for a run that is over."""
    row = repository.run(session, run_id, eval_id=eval_id)
    jobs.cancel(session, row.job_id)
    return row


def delete_run(session: Session, eval_id: str, run_id: str) -> None:
    """Delete it with its items; one still at work is cancelled."""
    row = repository.run(session, run_id, eval_id=eval_id)
    # its job is locked first, as its worker does it: the other way round the two could wait for each other
    _stop(session, row.job_id)
    if not repository.delete(session, row):
        raise EvalRunNotFound(f"There is no run {run_id!r} in this project.", param="run_id")


def _check_source(session: Session, found: EvalRow, ordered: DataSource) -> None:
    if not isinstance(ordered.source, FileContent):
        source.file_key(session, ordered.source.id)
    if isinstance(ordered, Jsonl):
        return
    # messages are written before there is an answer: they see the row alone
    schema, where = whole(found.item_schema, with_sample=False), "data_source.input_messages"
    if isinstance(ordered.input_messages, ItemReference):
        param = f"{where}.item_reference"
        referred = templates.variable(ordered.input_messages.item_reference, param=param)
        templates.check(templates.Template((referred,)), schema, of="The reference", param=param)
        return
    for field, text in ordered.input_messages.templates():
        _check_template(text, schema, of="The message", param=f"{where}.{field}")


def _check_template(text: str, schema: dict[str, Any], *, of: str, param: str) -> None:
    try:
        template = templates.parse(text, param=param)
    except InvalidTemplate as error:
        raise InvalidTemplate(f"{of}: {error.message}", param=param) from error
    templates.check(template, schema, of=of, param=param)


def _stop(session: Session, job_id: str) -> None:
    if jobs.get(session, job_id, lock=True).status not in TERMINAL:
        jobs.cancel(session, job_id)

"""What the Evals routes give: OpenAI's objects, with intervals and causes of ours beside them."""

from collections.abc import Sequence
from typing import Any

from services.evaluation.evals.domain import Criterion, Tally, pass_rate, run_status
from services.evaluation.evals.item_schemas import whole
from services.evaluation.evals.tables import EvalRow, EvalRunRow, GradeRow, OutputItemRow
from shared.clock import unix
from shared.jobs import TERMINAL, Job


def eval_object(row: EvalRow) -> dict[str, Any]:
    """An eval."""
    return {
        "id": row.id,
        "object": "eval",
        "name": row.name,
        "data_source_config": {
            "type": "custom",
            "schema": whole(row.item_schema, with_sample=row.include_sample_schema),
        },
        "testing_criteria": row.testing_criteria,
        "metadata": row.metadata_,
        "created_at": unix(row.created_at),
        "updated_at": unix(row.updated_at),
    }


def run_object(row: EvalRunRow, job: Job, tally: Tally, names: Sequence[str]) -> dict[str, Any]:
    """A run as far as it is; `names` are the criteria's. Ours beside OpenAI's: `pass_rate` and `progress`."""
    passed, failed, errored = (tally.statuses.get(status, 0) for status in ("pass", "fail", "error"))
    return {
        "id": row.id,
        "object": "eval.run",
        "eval_id": row.eval_id,
        "name": row.name,
        "model": row.model,
        "status": run_status(job.status),
        "data_source": row.data_source,
        "error": _error(job),
        "report_url": None,
        "metadata": row.metadata_,
        "result_counts": {
            "total": passed + failed + errored,
            "passed": passed,
            "failed": failed,
            "errored": errored,
        },
        "per_testing_criteria_results": [
            _criterion(name, tally.criteria.get(number, Criterion())) for number, name in enumerate(names)
        ],
        "per_model_usage": list(tally.usage),
        "pass_rate": pass_rate(passed, failed),
        "progress": None if job.status in TERMINAL else job.progress,
        "job_id": row.job_id,
        "created_at": unix(row.created_at),
    }


def output_item_object(
    row: OutputItemRow, grades: Sequence[GradeRow], *, eval_id: str, criteria: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """One row with its answer and its grades."""
    return {
        "id": row.id,
        "object": "eval.run.output_item",
        "eval_id": eval_id,
        "run_id": row.run_id,
        "status": row.status,
        "datasource_item_id": row.position,
        "datasource_item": row.item,
        "results": [_result(criteria[grade.criterion], grade) for grade in grades],
        "sample": row.sample,
        "created_at": unix(row.created_at),
    }


def _criterion(name: str, counts: Criterion) -> dict[str, Any]:
    return {
        "testing_criteria": name,
        "passed": counts.passed,
        "failed": counts.failed,
        "errored": counts.errored,
        "pass_rate": pass_rate(counts.passed, counts.failed),
    }


def _result(criterion: dict[str, Any], grade: GradeRow) -> dict[str, Any]:
    """A grade that ended in an error counts as not passed and has no score."""
    return {
        "name": criterion["name"],
        "type": f"{criterion['type'].replace('_', '-')}-grader",
        "passed": bool(grade.passed),
        "score": grade.score,
        "sample": grade.sample,
        "error": grade.error,
    }


def _error(job: Job) -> dict[str, Any] | None:
    return {"code": job.error["code"], "message": job.error["message"]} if job.error else None

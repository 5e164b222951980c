"""What can go wrong when variants are evaluated and compared; each error says what to do."""

from shared.errors import Conflict, InvalidInput, NotFound, Unavailable, UpliftError


class ExperimentNotFound(NotFound):
    code = "experiment_not_found"


class EvaluationNotFound(NotFound):
    code = "evaluation_not_found"


class DatasetNotFound(NotFound):
    code = "dataset_not_found"


class VectorStoreNotFound(NotFound):
    code = "vector_store_not_found"


class ReportNotReady(NotFound):
    """The experiment has not compared its variants (yet, or it never will)."""

    code = "report_not_ready"


class NotReady(Conflict):
    """What the request names is still being made. A 400: the client would repeat a 409 at once, in vain."""

    status = 400
    code = "not_ready"


class EmptySplit(InvalidInput):
    code = "empty_split"


class UnknownMetric(InvalidInput):
    code = "unknown_metric"


class AnswerFailed(UpliftError):
    """A question that the model cannot answer, whoever asks again."""

    status = 422
    code = "answer_failed"


class AnswersUnavailable(Unavailable):
    """Generation did not answer in time; what was answered is kept, so trying again goes on from there."""

    code = "answers_unavailable"


class EvalNotFound(NotFound):
    code = "eval_not_found"


class EvalRunNotFound(NotFound):
    code = "eval_run_not_found"


class OutputItemNotFound(NotFound):
    code = "output_item_not_found"


class SourceFileNotFound(NotFound):
    code = "file_not_found"


class UnsupportedInEvals(InvalidInput):
    """A grader, data source or option of OpenAI's that this server does not have."""

    code = "unsupported_parameter"


class InvalidTemplate(InvalidInput):
    code = "invalid_template"


class MissingVariable(InvalidInput):
    """A template's variable that a row or its answer does not have."""

    code = "missing_variable"


class InvalidItemSchema(InvalidInput):
    code = "invalid_item_schema"


class InvalidItem(InvalidInput):
    """A row of the data source that is not as the eval's schema wants it."""

    code = "invalid_item"


class UnreadableJudgement(InvalidInput):
    """What a grading model wrote is neither a score in range nor one of the labels."""

    code = "unreadable_judgement"


class EvalModelNotFound(NotFound):
    """A model that a run asks is not here: every row would fail in the same way, so the run does."""

    code = "model_not_found"


class InvalidFormula(InvalidInput):
    """What a `multi` grader calculates is not arithmetic over its graders' scores."""

    code = "invalid_formula"


class FormulaWithoutValue(UpliftError):
    """A formula that cannot be calculated with the scores at hand, such as a division by zero."""

    status = 422
    code = "formula_without_value"


class TextsTooLong(InvalidInput):
    """More text than is graded while its client waits."""

    code = "texts_too_long"

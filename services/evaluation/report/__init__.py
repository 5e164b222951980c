"""The report of an experiment: built from plain records, rendered as JSON, Markdown and one HTML file."""

from services.evaluation.report.build import build_report
from services.evaluation.report.inputs import ExampleRecord, ReportInputs, UnfitInputs, VariantInputs
from services.evaluation.report.model import Candidate, Choice, Comparison, Corpus, Dataset, Release, Report
from services.evaluation.report.render import to_html, to_json, to_markdown

__all__ = [
    "Candidate",
    "Choice",
    "Comparison",
    "Corpus",
    "Dataset",
    "ExampleRecord",
    "Release",
    "Report",
    "ReportInputs",
    "UnfitInputs",
    "VariantInputs",
    "build_report",
    "to_html",
    "to_json",
    "to_markdown",
]

"""The report of an experiment: built from plain records, rendered as JSON, Markdown and one HTML file."""

from .build import build_report
from .inputs import ExampleRecord, ReportInputs, UnfitInputs, VariantInputs
from .model import Candidate, Choice, Comparison, Corpus, Dataset, Release, Report
from .render import to_html, to_json, to_markdown

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

"""Plausible inputs of a report, drawn by seed: five variants, documents of one to three questions, two kinds."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from services.evaluation.metrics import score_answer
from services.evaluation.report import (
    Candidate,
    Choice,
    Corpus,
    Dataset,
    ExampleRecord,
    Release,
    ReportInputs,
    VariantInputs,
)

RATES = {"base": 0.02, "base+prompt": 0.15, "base+retrieval": 0.02, "tuned": 0.5, "raft+retrieval": 0.85}


def simulated_inputs(*, documents: int = 60, seed: int = 1, **changes: Any) -> ReportInputs:
    """Report inputs; `changes` replace fields."""
    variants = [_variant(name, rate, documents, seed) for name, rate in RATES.items()]
    inputs = ReportInputs(
        experiment_id="exp_1",
        name="PostgreSQL parameters",
        dataset=Dataset(id="ds_1", sha256="ab" * 32, sizes={"train": 400, "validation": 120, "test": 120}),
        corpus=Corpus(id="vs_1", documents=355, passages=402),
        base_model="smollm2-135m-instruct",
        variants=variants,
        seed=seed,
        looks_at_test=1,
        manifest={"commit": "0123abc", "versions": {"torch": "2.13.0"}},
        winner="raft+retrieval",
        release=Release(model="postgres-expert", variant="raft+retrieval"),
        choices=[
            Choice(
                what="passages per question",
                candidates=[Candidate(name="k = 1", score=0.78), Candidate(name="k = 3", score=0.82, detail="slower")],
                chosen="k = 3",
                reason="Best exact match on validation.",
            )
        ],
        notes=["The base weights were dequantised from Q4_1."],
        resamples=2_000,
        wall_seconds=812.0,
    )
    return replace(inputs, **changes)


def _variant(name: str, rate: float, documents: int, seed: int) -> VariantInputs:
    draw = random.Random(f"{seed} {name}")
    records = [
        _record(name, rate, document, question, draw)
        for document in range(documents)
        for question in range(1 + document % 3)
    ]
    trained = 210.0 if "tuned" in name else 340.0 if "raft" in name else 0.0
    return VariantInputs(name=name, model=f"var_{name}", records=records, train_seconds=trained, trained_tokens=9_000)


def _record(name: str, rate: float, document: int, question: int, draw: random.Random) -> ExampleRecord:
    reference = f"only at server start {document}"
    hit = draw.random() < 0.9 if "retrieval" in name else None
    answer = (
        reference if draw.random() < rate * (0.3 if hit is False else 1.0) else f"when <b>{document}</b> | restarts"
    )
    return ExampleRecord(
        example_id=f"ex_{document}_{question}",
        cluster=f"doc_{document}",
        question=f"When can the PostgreSQL parameter p_{document} be set ({question})?",
        reference=reference,
        answer=answer,
        scores=score_answer(reference, answer) | ({} if hit is None else {"recall_at_k": float(hit)}),
        latency_ms=draw.lognormvariate(6, 0.3),
        prompt_tokens=200 if hit is not None else 40,
        completion_tokens=8,
        slices={"kind": ("type", "default", "set")[question]},
        retrieval_hit=hit,
    )

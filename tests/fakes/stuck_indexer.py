"""A process that runs one index job with the real runner and never gets past its third text: `… PROJECT JOB`."""

import os
import sys
import threading
from pathlib import Path

from services.retrieval.embedder import Embedder
from services.retrieval.handlers import JOB_HANDLERS
from services.retrieval.settings import RetrievalSettings
from services.retrieval.wiring import RetrievalWiring
from shared.jobs.runner import JobRunner
from tests.fakes.word_embedder import WordEmbedder


def main(project_id: str, job_id: str) -> None:
    embedder = WordEmbedder()

    def get_stuck_at_third() -> None:
        if embedder.embedded == 2:
            Path(os.environ["UPLIFT_READY_FILE"]).touch()
            threading.Event().wait()

    embedder.before = get_stuck_at_third

    def by_name(_name: str) -> Embedder:
        return embedder

    wiring = RetrievalWiring.from_settings(RetrievalSettings(), embedder=by_name)
    JobRunner(wiring, JOB_HANDLERS, worker="stuck").run(project_id, job_id)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The rows of one job, from its files, its dataset or its vector store to two files that the child reads."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from sqlalchemy.orm import Session

from services.training import corpus, held, repository
from services.training.domain import Document, Example
from services.training.errors import NoTrainingExamples
from services.training.recipe import Recipe
from services.training.rendering import Renderer
from services.training.settings import TrainingSettings
from services.training.tables import HeldFile, TrainingJob
from services.training.training_files import Source, holds_texts, read_chats, read_preferences, read_texts
from shared.document_text import to_text
from shared.prompt_format import PromptSpec
from shared.storage import Storage


@dataclass(frozen=True)
class Rows:
    """How many examples there are, with the sha256 of all rows that are learned from; `remark` is worth telling whoever
    watches the job."""

    train: int
    validation: int
    sha256: str
    remark: str | None = None
    replays: bool = False


@dataclass(frozen=True)
class RowWriter:
    """Reads what a job names and lays it out as the model will see it."""

    session: Session
    storage: Storage
    job: TrainingJob
    model_dir: Path
    settings: TrainingSettings

    def write(self, train: Path, validation: Path, replay: Path) -> Rows:
        """Fill the files; NoTrainingExamples where there is nothing to learn or, though asked for, to replay."""
        recipe = Recipe.model_validate(self.job.recipe)
        documents = recipe.objective == "continued_pretraining"
        rows = self._documents(train, validation, recipe) if documents else self._examples(train, validation, recipe)
        if rows.train == 0:
            named = self.job.training_file or self.job.dataset_id
            raise NoTrainingExamples(f"{named} holds nothing to train on.", param="training_file")
        if self.job.replay_file is None:
            return rows
        digest = self._replay(replay, recipe)
        return replace(rows, sha256=hashlib.sha256(f"{rows.sha256} {digest}".encode()).hexdigest(), replays=True)

    def _replay(self, path: Path, recipe: Recipe) -> str:
        """Write what is replayed, chats or documents, whichever the file holds; answers the hash of the rows."""
        source, file = self._source("replay_file")
        with self._open(file) as stored:
            texts = holds_texts(stored, source)
        with self._open(file) as stored:
            if texts:
                return self._write(path, read_texts(stored, source), recipe).sha256
            return self._renderer().write(path, read_chats(stored, source))[1]

    # --- answers and preferences ---

    def _examples(self, train: Path, validation: Path, recipe: Recipe) -> Rows:
        renderer = self._renderer()
        count, digest = renderer.write(train, self._examples_of("train", recipe))
        validation_count, _ = renderer.write(validation, self._examples_of("validation", recipe))
        return Rows(count, validation_count, digest)

    def _renderer(self) -> Renderer:
        return Renderer(self.model_dir, PromptSpec.model_validate(self.job.prompt), self.job.max_passage_tokens)

    def _examples_of(self, split: str, recipe: Recipe) -> Iterator[Example]:
        """A file where the job names one for the split, or else the dataset's split."""
        param, file_id = self._named(split)
        if file_id is not None:
            source, file = self._source(param)
            read = read_preferences if recipe.objective == "dpo" else read_chats
            with self._open(file) as stored:
                yield from read(stored, source)
        elif self.job.dataset_id is not None:
            yield from repository.examples(self.session, self.job.dataset_id, split)

    # --- documents ---

    def _documents(self, train: Path, validation: Path, recipe: Recipe) -> Rows:
        remark = None
        if self.job.validation_file is not None:
            learned = self._write(train, self._documents_of("train"), recipe)
            held = self._write(validation, self._documents_of("validation"), recipe)
        else:
            everything = train.with_name("documents.jsonl")
            corpus.spool(everything, self._documents_of("train"))
            groups, count, total = corpus.hold_out(everything, recipe.validation_share, recipe.seed)
            documents = corpus.read_documents
            learned = self._write(train, (d for d in documents(everything) if d.group not in groups), recipe)
            held = self._write(validation, (d for d in documents(everything) if d.group in groups), recipe)
            everything.unlink()
            remark = f"Held out {count} of {total} documents for validation"
        return Rows(learned.windows, held.windows, learned.sha256, remark)

    def _write(self, path: Path, documents: Iterator[Document], recipe: Recipe) -> corpus.Written:
        return corpus.write_documents(path, documents, self.model_dir, recipe.max_length)

    def _documents_of(self, split: str) -> Iterator[Document]:
        """A file's rows, or the texts of a vector store's files."""
        param, named = self._named(split)
        assert named is not None, "a job without a source is never made"
        if repository.is_vector_store(named):
            yield from self._stored_documents(param)
            return
        source, file = self._source(param)
        with self._open(file) as stored:
            yield from read_texts(stored, source)

    def _stored_documents(self, param: str) -> Iterator[Document]:
        """Of the files that the store had at the first attempt."""
        for file in held.held_documents(self.session, self.job, param):
            with self._open(file) as stored:
                text = to_text(file.filename, stored.read())
            yield Document(text, corpus.group_of(text))

    # --- where they lie ---

    def _source(self, param: str) -> tuple[Source, HeldFile]:
        file = held.held_file(self.session, self.job.id, getattr(self.job, param), param)
        return Source(param, file.filename, self.settings.max_line_bytes), file

    def _open(self, file: HeldFile) -> IO[bytes]:
        return self.storage.open(self.job.project_id, file.blob_key)

    def _named(self, split: str) -> tuple[str, str | None]:
        """The job's field for the split, and what it says."""
        if split == "train":
            return "training_file", self.job.training_file
        return "validation_file", self.job.validation_file

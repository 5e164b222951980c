"""One export from the stored weights to a file of the project: gather or merge, write the card, pack, keep."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from services.training.base_facts import base_facts
from services.training.child import supervise
from services.training.domain import LEARNED_FILE
from services.training.errors import TrainingChildStopped
from services.training.exhaustion import EXPORT, name_exhaustion
from services.training.export import repository
from services.training.export.card import CURVES_FILE, History, model_card
from services.training.export.curves import Curves, curves_svg
from services.training.export.gguf_rules import check_gguf
from services.training.export.order import (
    GGUF_FILE,
    Advanced,
    Exported,
    ExportEvent,
    ExportOrder,
    GgufFacts,
    parse_event,
)
from services.training.export.packing import pack
from services.training.rendering import model_folder
from services.training.repository import metrics
from services.training.settings import TrainingSettings, child_environment
from shared import quotas
from shared.files import add_file
from shared.jobs import HandOver, JobCancelled, JobContext
from shared.messages import ExportModel

PURPOSE = "fine-tune-results"
_CHILD = "services.training.lora.export_model"
_GRACE_SECONDS = 5.0
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "tokenizer.model", "vocab.json", "merges.txt"),
)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


class ModelExport:
    """One attempt at one export. It starts anew each time; no working folder is left behind, however it ends."""

    def __init__(self, context: JobContext, command: ExportModel) -> None:
        self._context, self._command = context, command
        settings = context.wiring.settings
        assert isinstance(settings, TrainingSettings), "the training worker is wired with TrainingSettings"
        self._settings = settings
        with context.transaction() as session:
            self._weights = repository.weights(session, command.weights_id)
            steps = list(metrics(session, self._weights.job.id)) if self._weights.job else []
            data, scores = repository.data_sources(session, self._weights), repository.scores(session, self._weights)
        self._base = model_folder(settings.models_dir, self._weights.base_model)
        self._folder = settings.exports_dir / context.job.id
        self._stored = context.wiring.storage.local_folder(context.project_id, self._weights.blob_key)
        self._whole = not (self._stored / "adapter_config.json").is_file()
        self._history = History(data, _learned(self._stored), Curves.of(steps) if steps else None, scores)

    def run(self) -> None:
        """Write what is wanted and keep it as one file."""
        shutil.rmtree(self._folder, ignore_errors=True)
        output = self._folder / "output"
        try:
            output.mkdir(parents=True)
            made, measured = self._gguf(output) if self._command.format == "gguf" else self._zip(output)
            self._context.check()
            self._keep(made, measured)
        except OSError as error:  # of the worker's own files, or of storage
            named = name_exhaustion(error, EXPORT)
            if named is None:
                raise
            raise named from error
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _gguf(self, output: Path) -> tuple[Path, dict[str, Any]]:
        """One file; answers it and what was measured of it."""
        check_gguf(self._stored if self._whole else self._base)
        facts = GgufFacts(
            name=self._weights.model_id,
            base_model=self._weights.base_model,
            licence=base_facts(self._base).licence,
            card=self._card({}),
        )
        return output / GGUF_FILE, self._run_child(output, facts)

    def _zip(self, output: Path) -> tuple[Path, dict[str, Any]]:
        """Weights, tokenizer and card in a .zip; answers it and what was measured of merged weights."""
        measured: dict[str, Any] = {}
        if self._command.format == "adapter":
            for name in _ADAPTER_FILES:
                shutil.copyfile(self._stored / name, output / name)
        else:
            measured = self._run_child(output)
        for name in _TOKENIZER_FILES:
            # checkpoints and uploaded adapters come without a tokenizer: it is the base model's
            source = (self._stored if (self._stored / "tokenizer.json").is_file() else self._base) / name
            if source.is_file():
                shutil.copyfile(source, output / name)
        (output / "README.md").write_text(self._card(measured))
        if (curves := self._history.curves) is not None:
            kept = self._weights.step or self._weights.metrics.get("best_step")
            (output / CURVES_FILE).write_text(curves_svg(curves, self._weights.model_id, kept))
        self._context.event("Packing the files.")
        pack(output, self._folder / "packed.zip")
        return self._folder / "packed.zip", measured

    def _card(self, measured: dict[str, Any]) -> str:
        return model_card(self._weights, self._base, self._command.format, self._history, measured)

    def _run_child(self, output: Path, gguf: GgufFacts | None = None) -> dict[str, Any]:
        order = ExportOrder(
            model_dir=self._stored if self._whole else self._base,
            adapter_dir=None if self._whole else self._stored,
            dtype=self._command.dtype,
            output_dir=output,
            home=self._settings.home,
            gguf=gguf,
        )
        order_file = self._folder / "order.json"
        order_file.write_text(order.model_dump_json())
        try:
            exported = supervise(
                _CHILD,
                order_file,
                environment=child_environment() | {"CUDA_VISIBLE_DEVICES": ""},
                parse=parse_event,
                last=Exported,
                on_event=self._hear,
                wish=self._context.should_stop,
                grace_seconds=_GRACE_SECONDS,
                work=EXPORT,
            )
        except TrainingChildStopped as stopped:
            if stopped.wish == "cancel":
                raise JobCancelled(self._context.job.id) from stopped
            raise HandOver(stopped.wish) from stopped
        return exported.model_dump(mode="json", exclude={"event"})

    def _hear(self, event: ExportEvent) -> None:
        if isinstance(event, Advanced):
            self._context.progress(event.done, event.total, "parts", event.message)
            self._context.event(event.message)

    def _keep(self, made: Path, measured: dict[str, Any]) -> None:
        """Store the file, and end the job with its row."""
        context, kind = self._context, self._command.format
        ending = "gguf" if kind == "gguf" else f"{kind}.zip"
        filename = f"{_NOT_IN_NAMES.sub('-', self._command.model)}.{ending}"
        with (
            made.open("rb") as content,
            context.wiring.storage.staged(context.project_id, content) as staged,
            context.transaction() as session,
        ):
            quotas.claim_storage(session, context.project_id, staged.blob.size, self._settings)
            row = add_file(session, staged, context.project_id, filename=filename, purpose=PURPOSE)
            result = {
                "file_id": row.id,
                "filename": row.filename,
                "bytes": row.bytes,
                "sha256": row.sha256,
                "model": self._command.model,
                "format": kind,
            }
            context.succeed(session, result | measured)


def _learned(stored: Path) -> str | None:
    """The hash of the rows that a run noted beside its weights; checkpoints and uploads have no note."""
    note = stored / LEARNED_FILE
    return str(json.loads(note.read_text())["data_sha256"]) if note.is_file() else None

"""One upload from its two files to a served adapter: bytes first, then a process of its own, then the rows."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.training.adapters import repository
from services.training.adapters.config import MOST_BYTES, LoraShape, read_config
from services.training.adapters.errors import (
    AdapterNotLoadable,
    AdapterTooLarge,
    CheckOutOfMemory,
    CheckTimedOut,
    refusal_named,
)
from services.training.adapters.header import TensorEntry, read_header
from services.training.adapters.layers import adapted_layers, base_tensors, check_tensors, linear_layers, target_names
from services.training.adapters.order import CheckOrder, Verdict, parse_verdict
from services.training.adapters.tables import AdapterImport
from services.training.child import supervise
from services.training.domain import fine_tuned_model_id
from services.training.errors import OutOfMemory, TrainingChildDied, TrainingChildStopped
from services.training.held import held_file
from services.training.rendering import model_folder
from services.training.repository import project_name
from services.training.settings import TrainingSettings, child_environment
from services.training.tables import AdapterRow
from shared.files import keep_blob
from shared.jobs import HandOver, JobCancelled, JobContext

_CHILD = "services.training.lora.check_adapter"
_GRACE_SECONDS = 5.0
_COPY = 1 << 20
_SLACK_BYTES = 1 << 30
"""What torch, transformers and peft take besides the weights while they load (measured: 0.3 GB; the rest is room)."""


@dataclass(frozen=True)
class Checked:
    """What the bytes alone told: the adapter's folder as peft reads it, and what the child may take."""

    folder: Path
    shape: LoraShape
    targets: list[str]
    tensors: int
    parameters: int
    memory_bytes: int


class AdapterUpload:
    """One attempt at one upload. Every step refuses with an AdapterRefused; nothing is kept before the last."""

    def __init__(self, context: JobContext, upload: AdapterImport) -> None:
        self._context, self._upload = context, upload
        settings = context.wiring.settings
        assert isinstance(settings, TrainingSettings), "the training worker is wired with TrainingSettings"
        self._settings = settings
        self._base = model_folder(settings.models_dir, upload.base_model)
        self._folder = settings.imports_dir / upload.id

    def run(self) -> None:
        """Check, load, keep; no working folder is left behind, however it ends."""
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder / "adapter").mkdir(parents=True)
        try:
            checked = self._check_bytes()
            self._context.event(f"{checked.tensors} tensors of the right names and shapes; loading them apart.")
            self._context.check()
            self._check_loading(checked)
            self._keep(checked)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _check_bytes(self) -> Checked:
        """Header and configuration against the base model; writes the configuration that everybody will read."""
        upload, folder = self._upload, self._folder / "adapter"
        weights, received = folder / "adapter_model.safetensors", self._folder / "received.json"
        self._fetch(upload.config_file, received, MOST_BYTES, param="config_file")
        self._fetch(upload.weights_file, weights, self._settings.adapter_most_bytes, param="weights_file")
        with weights.open("rb") as stream:
            entries = read_header(stream, weights.stat().st_size)
        shape = read_config(received.read_bytes(), most_rank=self._settings.adapter_most_rank)
        tensors = base_tensors(self._base)
        layers = linear_layers(tensors)
        adapted = adapted_layers(layers, shape)
        check_tensors(entries, adapted, shape.rank)
        targets = target_names(layers, adapted)
        (folder / "adapter_config.json").write_text(_config_text(shape, targets, upload.base_model))
        (folder / "README.md").write_text(_card(upload))
        parameters = sum(entry.elements for entry in entries.values())
        return Checked(folder, shape, targets, len(entries), parameters, _memory(tensors, parameters))

    def _fetch(self, file_id: str, target: Path, most: int, *, param: str) -> None:
        """A copy to work on; never more than `most` bytes, whatever the row says."""
        with self._context.transaction() as session:
            found = held_file(session, self._upload.job_id, file_id, param)
        size = 0
        storage = self._context.wiring.storage
        with storage.open(self._context.project_id, found.blob_key) as source, target.open("wb") as sink:
            while chunk := source.read(_COPY):
                size += len(chunk)
                if size > most:
                    raise AdapterTooLarge(f"{file_id} has more than the {most} bytes that are taken.", param=param)
                sink.write(chunk)

    def _check_loading(self, checked: Checked) -> None:
        order = CheckOrder(
            model_dir=self._base,
            adapter_dir=checked.folder,
            home=self._settings.home,
            memory_bytes=checked.memory_bytes,
        )
        order_file = self._folder / "order.json"
        order_file.write_text(order.model_dump_json())
        try:
            verdict = supervise(
                _CHILD,
                order_file,
                environment=child_environment() | {"CUDA_VISIBLE_DEVICES": ""},
                parse=parse_verdict,
                last=Verdict,
                on_event=lambda _event: None,
                wish=_until(self._context.should_stop, self._settings.adapter_check_seconds),
                grace_seconds=_GRACE_SECONDS,
            )
        except TrainingChildStopped as stopped:
            raise self._interruption(stopped.wish) from stopped
        except OutOfMemory as error:
            raise CheckOutOfMemory(
                "The kernel killed the process that loaded the adapter because the machine ran out of memory.",
                param="weights_file",
            ) from error
        except TrainingChildDied as died:
            if self._context.job.attempt < self._context.job.max_attempts:
                raise  # perhaps somebody else's doing: tried again
            raise AdapterNotLoadable(
                f"The process that loaded the adapter died each time. {died}", param="weights_file"
            ) from died
        if verdict.refusal is not None:
            raise refusal_named(verdict.refusal.code, verdict.refusal.message, verdict.refusal.param)

    def _interruption(self, wish: str) -> Exception:
        if wish == "cancel":
            return JobCancelled(self._upload.id)
        if wish == "timeout":
            seconds = self._settings.adapter_check_seconds
            return CheckTimedOut(f"Loading the adapter took more than {seconds:.0f} s.", param="weights_file")
        return HandOver(wish)

    def _keep(self, checked: Checked) -> None:
        """Store the folder, its row and the job's end in one transaction; JobCancelled if nobody wants it any more."""
        context, upload = self._context, self._upload
        with (
            context.wiring.storage.staged_folder(upload.project_id, checked.folder) as staged,
            context.transaction() as session,
        ):
            if repository.find_upload(session, upload.id, lock=True) is None:
                raise JobCancelled(upload.id)
            project = project_name(session, upload.project_id)
            blob = keep_blob(session, staged)
            adapter = AdapterRow(
                id=upload.id,
                project_id=upload.project_id,
                model_id=fine_tuned_model_id(upload.base_model, project, upload.suffix, upload.id),
                base_model=upload.base_model,
                blob_key=blob.key,
                bytes=blob.size,
                job_id=upload.job_id,
                dataset_id=None,
                recipe={"rank": checked.shape.rank, "alpha": checked.shape.alpha, "targets": checked.targets},
                metrics={"tensors": checked.tensors, "parameters": checked.parameters},
                train_seconds=0.0,
                trained_tokens=0,
            )
            session.add(adapter)
            session.flush()
            context.succeed(session, {"adapter_id": adapter.id, "model_id": adapter.model_id} | adapter.metrics)


def _until(wish: Callable[[], str | None], seconds: float) -> Callable[[], str | None]:
    """The job's own wish, or "timeout" once the seconds are over."""
    end = time.monotonic() + seconds

    def asked() -> str | None:
        return wish() or ("timeout" if time.monotonic() > end else None)

    return asked


def _memory(base: dict[str, TensorEntry], parameters: int) -> int:
    """Bytes that loading should need: the base in float32 once and half again, the adapter four times."""
    return 6 * sum(entry.elements for entry in base.values()) + 16 * parameters + _SLACK_BYTES


def _config_text(shape: LoraShape, targets: list[str], base_model: str) -> str:
    """The configuration anew, from what was understood of it: no word of the client's own reaches a loader."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "bias": "none",
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": 0.0,
        "use_rslora": shape.rslora,
        "target_modules": targets,
    }
    return json.dumps(config, indent=2, sort_keys=True)


def _card(upload: AdapterImport) -> str:
    """A model card."""
    return (
        f"---\nbase_model: {upload.base_model}\nlibrary_name: peft\n---\n# LoRA adapter for {upload.base_model}\n\n"
        f"Uploaded as {upload.id}; where it comes from and what it was trained on is not known here.\n"
    )

"""The exporting child: `python -m services.training.lora.export_model ORDER.json` writes one whole model.

An adapter is merged by peft itself, in float32, so that what LoRA, rsLoRA and DoRA mean is decided in one place; then
the sum is rounded to the wanted type, read back, and compared with the model as it was.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.training.exhaustion import EXPORT, name_exhaustion
from services.training.export.order import GGUF_FILE, Advanced, Exported, ExportEvent, ExportOrder
from services.training.lora.gguf_file import write_gguf
from services.training.lora.run import die_with_parent
from services.training.order import Failed
from shared.compute import ComputeShare
from shared.errors import UpliftError

_PROBE = (
    "A library lends books for four weeks. Whoever needs one longer asks for it before the time is over, at the desk, "
    "by telephone or here: as long as nobody else waits for the book, it may stay for another four weeks.\n"
    "1. How long may I keep a book? 2. What if somebody waits for it? 3. def renew(book, weeks=4): return book"
)
"""Read by both models: prose, a list and code, so that many kinds of tokens are compared."""
Say = Callable[[ExportEvent], None]


def main(order_file: Path, parent: int | None = None) -> int:
    """Exit status 0 with `Exported` as the last line; 1 for the reason in the last event."""
    die_with_parent(parent)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    order = ExportOrder.model_validate_json(order_file.read_text())
    try:
        with ComputeShare(order.home, "export") as share:
            torch.set_num_threads(share.threads())
            say(export(order, say))
    except UpliftError as error:
        say(Failed(code=error.code, message=error.message, param=error.param))
        return 1
    except (OSError, MemoryError, RuntimeError, SafetensorError) as error:
        named = name_exhaustion(error, EXPORT)
        if named is None:
            raise
        say(Failed(code=named.code, message=named.message))
        return 1
    return 0


@torch.inference_mode()
def export(order: ExportOrder, tell: Say) -> Exported:
    """Merge, write, read back, compare."""
    tell(Advanced(done=0, total=3, message="Loading the model."))
    model = load(order.model_dir, torch.float32)
    dtype = wanted_dtype(order)
    if order.adapter_dir is not None:
        model = PeftModel.from_pretrained(model, str(order.adapter_dir)).eval()
    tokens = probe(order.model_dir)
    expected = model(input_ids=tokens).logits[0]  # (T, V)
    tell(Advanced(done=1, total=3, message="Writing the merged weights."))
    if order.adapter_dir is not None:
        model = model.merge_and_unload(safe_merge=True)
    if order.gguf is None:
        model.to(getattr(torch, dtype)).save_pretrained(order.output_dir)
    else:
        write_gguf(model, order.model_dir, order.output_dir / GGUF_FILE, dtype, order.gguf)
    tell(Advanced(done=2, total=3, message="Reading them back to compare."))
    del model
    written = load(order.output_dir, torch.float32, GGUF_FILE if order.gguf else None)
    return compared(expected, written(input_ids=tokens).logits[0], dtype)


def load(folder: Path, dtype: torch.dtype, gguf_file: str | None = None) -> Any:
    """Safetensors or GGUF only, no remote code, on the CPU."""
    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        gguf_file=gguf_file,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    ).eval()


def wanted_dtype(order: ExportOrder) -> str:
    """The order's, or the type that the base model's weights are stored in."""
    if order.dtype != "auto":
        return order.dtype
    config = transformers.AutoConfig.from_pretrained(order.model_dir, trust_remote_code=False)
    return str(config.dtype or torch.float32).removeprefix("torch.")


def probe(folder: Path) -> Tensor:
    """The probe's tokens (1, T)."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokens: Tensor = tokenizer(_PROBE, return_tensors="pt").input_ids[:, :256]
    return tokens


def compared(expected: Tensor, found: Tensor, dtype: str) -> Exported:
    """Both (T, V)."""
    return Exported(
        dtype=dtype,
        largest_logit_difference=float((expected - found).abs().max()),
        logit_spread=float(expected.std()),
        same_next_tokens=int((expected.argmax(-1) == found.argmax(-1)).sum()),
        positions=len(expected),
    )


def say(event: ExportEvent) -> None:
    """One event to the worker."""
    sys.stdout.write(event.model_dump_json() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))

"""The checking child: `python -m services.training.lora.check_adapter ORDER.json` loads a stranger's adapter.

It has no key, no database and no network client; its memory is limited; it runs on the CPU. The files it reads are a
header that the worker has checked and a configuration that the worker wrote.
"""

import resource
import sys
from pathlib import Path

import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM

from services.training.adapters.errors import (
    AdapterNotLoadable,
    AdapterRefused,
    CheckOutOfMemory,
    HeaderInvalid,
    ValuesRefused,
)
from services.training.adapters.order import CheckOrder, Refusal, Verdict
from services.training.lora.base_model import has_fast_bfloat16
from services.training.lora.run import die_with_parent
from shared.compute import ComputeShare

_LARGEST = 1e6
"""The limit of the engine that will serve it: products of larger weights could overflow."""
_LOG_BYTES = 16 << 20
_NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "can't start new thread")
"""How torch, the kernel and the interpreter put it (a thread needs a stack)."""


def main(order_file: Path, parent: int | None = None) -> int:
    """Exit status 0 with a verdict on standard output; anything else is a defect or a killed process."""
    die_with_parent(parent)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    order = CheckOrder.model_validate_json(order_file.read_text())
    _limit(order.memory_bytes)
    refusal = None
    try:
        with ComputeShare(order.home, "adapter check") as share:
            torch.set_num_threads(share.threads())
            check(order)
    except AdapterRefused as error:
        refusal = Refusal(code=error.code, message=error.message, param=error.param)
    sys.stdout.write(Verdict(refusal=refusal).model_dump_json() + "\n")
    sys.stdout.flush()
    return 0


@torch.inference_mode()
def check(order: CheckOrder) -> None:
    """Every value is sound, peft puts every tensor in its place, and one forward pass is finite."""
    weights = order.adapter_dir / "adapter_model.safetensors"
    try:
        check_values(weights)
        model = _load(order)
        _check_places(model, weights)
        _check_pass(model)
    except (MemoryError, RuntimeError, OSError, SafetensorError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY):
            raise CheckOutOfMemory(
                f"Loading the adapter took more than the {order.memory_bytes >> 20} MiB that this base model and "
                "adapter should need.",
                param="weights_file",
            ) from error
        if isinstance(error, OSError):
            raise  # files of ours that are not there: a defect, not the upload's fault
        if isinstance(error, SafetensorError):
            raise HeaderInvalid(f"The safetensors library refuses the file: {error}", param="weights_file") from error
        said = str(error).replace(str(order.adapter_dir), "adapter").replace(str(order.model_dir), "base model")
        raise AdapterNotLoadable(f"peft could not load the adapter: {said}", param="weights_file") from error


def check_values(weights: Path) -> None:
    """ValuesRefused names the first tensor with a value that is not finite or too large; one tensor at a time."""
    with safe_open(weights, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  (not a dict)
            if not bool((tensors.get_tensor(name).abs() < _LARGEST).all()):
                raise ValuesRefused(
                    f"Tensor {name} has values that are NaN, infinite or beyond {_LARGEST:g}.", param="weights_file"
                )


def _load(order: CheckOrder) -> PeftModel:
    dtype = torch.bfloat16 if has_fast_bfloat16(torch.device("cpu")) else torch.float32
    base = AutoModelForCausalLM.from_pretrained(
        order.model_dir, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
    )
    return PeftModel.from_pretrained(base, str(order.adapter_dir), torch_device="cpu").eval()


def _check_places(model: PeftModel, weights: Path) -> None:
    """What peft would save is what was uploaded; and the engine, which serves linear layers only, can serve it."""
    held = get_peft_model_state_dict(model)
    with safe_open(weights, framework="pt") as tensors:
        names = set(tensors.keys())
        if names != held.keys():
            odd = sorted(names ^ held.keys())[0]
            raise AdapterNotLoadable(f"peft has no place for {odd}, or no weights for it.", param="weights_file")
        for name in names:
            if not torch.equal(tensors.get_tensor(name).to(held[name].dtype), held[name]):
                raise AdapterNotLoadable(f"peft did not take over {name} unchanged.", param="weights_file")
    for path, module in model.named_modules():
        if hasattr(module, "lora_A") and not isinstance(module.get_base_layer(), nn.Linear):
            raise AdapterNotLoadable(f"{path} is no plain linear layer; only those are served.", param="config_file")


def _check_pass(model: PeftModel) -> None:
    window = torch.arange(8)[None] % model.config.vocab_size  # (1, 8), any tokens do
    if not bool(torch.isfinite(model(input_ids=window).logits).all()):
        raise AdapterNotLoadable("A first forward pass with the adapter is not finite.", param="weights_file")


def _limit(memory_bytes: int) -> None:
    """No core file, no file larger than a log, and so much more memory than now (private, writable pages)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LOG_BYTES, _LOG_BYTES))
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            most = int(line.split()[1]) * 1024 + memory_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))

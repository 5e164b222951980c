"""Why an adapter is refused. `param` says which of the two files it is about.

AdapterRefused 400
├── NotSafetensors, HeaderInvalid, TensorsMismatch, ValuesRefused   the weights
├── ConfigInvalid, ConfigKeyRefused                                 the configuration
├── AdapterNotLoadable, CheckTimedOut, CheckOutOfMemory             loading it for a first pass
└── AdapterTooLarge 413
AdapterInUse 400
"""

from shared.errors import Conflict, InvalidInput


class AdapterRefused(InvalidInput):
    code = "adapter_refused"


class NotSafetensors(AdapterRefused):
    """Another kind of file: pickles and archives are named and never opened."""

    code = "adapter_not_safetensors"


class HeaderInvalid(AdapterRefused):
    """The safetensors header breaks a rule of the format or of this server."""

    code = "adapter_header_invalid"


class TensorsMismatch(AdapterRefused):
    """The tensors are not those of the base model's LoRA layers."""

    code = "adapter_tensors_mismatch"


class ValuesRefused(AdapterRefused):
    """A weight is NaN, infinite or far beyond what training makes."""

    code = "adapter_values_refused"


class ConfigInvalid(AdapterRefused):
    code = "adapter_config_invalid"


class ConfigKeyRefused(AdapterRefused):
    """A key that is not known, or one whose feature is not served."""

    code = "adapter_config_key_refused"


class AdapterNotLoadable(AdapterRefused):
    """peft could not load it, or its first forward pass was not finite."""

    code = "adapter_not_loadable"


class CheckTimedOut(AdapterRefused):
    code = "adapter_check_timed_out"


class CheckOutOfMemory(AdapterRefused):
    code = "adapter_check_out_of_memory"


class AdapterTooLarge(AdapterRefused):
    status = 413
    code = "adapter_too_large"


class AdapterInUse(Conflict):
    """A 400, not a 409: OpenAI's client retries 409, and waiting does not free the adapter."""

    status = 400
    code = "adapter_in_use"


def refusal_named(code: str, message: str, param: str | None) -> AdapterRefused:
    """The refusal that the checking process reported by its code."""
    known = {kind.code: kind for kind in AdapterRefused.__subclasses__()}
    return known.get(code, AdapterNotLoadable)(message, param=param)

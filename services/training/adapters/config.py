"""`adapter_config.json`: the few keys that decide an adapter, and a named refusal for every other wish.

Keys are those of peft's LoraConfig. Paths and names in it are labels: nothing is ever loaded because of them.
"""

import json
from dataclasses import dataclass
from typing import Any

from services.training.adapters.errors import ConfigInvalid, ConfigKeyRefused
from services.training.adapters.header import shown

MOST_BYTES = 64 << 10
MOST_TARGETS = 64
_MOST_ALPHA = 1024
_LARGEST_NUMBER = 1e9
_LABELS = frozenset(
    {"base_model_name_or_path", "revision", "peft_version", "megatron_core", "qalora_group_size", "inference_mode"}
)
"""Said about the adapter's past, without effect on what it computes."""
_USED = frozenset({"peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules"})
_ONLY_UNSET = frozenset(
    {
        *{"auto_mapping", "modules_to_save", "exclude_modules", "layers_to_transform", "layers_pattern"},
        *{"rank_pattern", "alpha_pattern", "megatron_config", "trainable_token_indices", "loftq_config"},
        *{"eva_config", "corda_config", "lora_ga_config", "use_dora", "velora_config", "alora_invocation_tokens"},
        *{"use_qalora", "monteclora_config", "layer_replication", "lora_bias", "target_parameters", "use_bdlora"},
        *{"arrow_config", "kasa_config", "ensure_weight_tying", "fan_in_fan_out", "runtime_config"},
    }
)
"""Known to peft, not served here: taken as null, false or empty only."""
_HINTS = {"auto_mapping": " It names code to import; peft leaves it out when the LoraConfig has a task_type."}
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal")
"""Values of init_lora_weights that leave the base model's weights as they are."""


@dataclass(frozen=True)
class LoraShape:
    """What decides the adapter's arithmetic: the update is alpha / rank (rsLoRA: / √rank) · B A, on `targets`."""

    rank: int
    alpha: float
    rslora: bool
    targets: tuple[str, ...] | None
    """Endings of module names; None for every linear layer."""


def read_config(text: bytes, *, most_rank: int) -> LoraShape:
    """The shape that the file describes; ConfigInvalid or ConfigKeyRefused names what is not taken."""
    config = _parse(text)
    if config.get("peft_type") != "LORA":
        raise _invalid("peft_type", config.get("peft_type"), 'the only type served is "LORA"')
    _refuse_features(config)
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise _invalid("task_type", config["task_type"], "the only task served is CAUSAL_LM")
    rank = config.get("r")
    if type(rank) is not int or not 1 <= rank <= most_rank:
        raise _invalid("r", rank, f"a rank is an integer from 1 to {most_rank}")
    dropout = _number(config, "lora_dropout", 0.0, "a probability below 1 is wanted")
    if not 0 <= dropout < 1:
        raise _invalid("lora_dropout", dropout, "a probability below 1 is wanted")
    rslora = config.get("use_rslora", False)
    if type(rslora) is not bool:
        raise _invalid("use_rslora", rslora, "true or false is wanted")
    alpha = _number(config, "lora_alpha", None, "a positive number is wanted")
    if not 0 < alpha <= _MOST_ALPHA * rank:
        raise _invalid("lora_alpha", alpha, f"a positive number up to {_MOST_ALPHA} times the rank is wanted")
    return LoraShape(rank, alpha, rslora, _targets(config.get("target_modules")))


def _number(config: dict[str, Any], key: str, otherwise: float | None, wanted: str) -> float:
    found = config.get(key, otherwise)
    if not isinstance(found, int | float) or isinstance(found, bool) or not abs(found) < _LARGEST_NUMBER:
        raise _invalid(key, found, wanted)
    return float(found)


def _parse(text: bytes) -> dict[str, Any]:
    if len(text) > MOST_BYTES:
        raise ConfigInvalid(f"The configuration has more than {MOST_BYTES} bytes.", param="config_file")
    try:
        found = json.loads(text.decode(), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigInvalid(f"The configuration is not JSON: {shown(str(error))}.", param="config_file") from error
    if not isinstance(found, dict):
        raise ConfigInvalid("The configuration is not a JSON object.", param="config_file")
    return found


def _refuse_features(config: dict[str, Any]) -> None:
    """Name the first key that is unknown, or that asks for something which is not served."""
    for key, value in config.items():
        if key in _ONLY_UNSET:
            if value not in (None, False) and value not in ({}, []):
                raise ConfigKeyRefused(
                    f"The configuration sets {key}, which is not served; it must be null, false or empty."
                    + _HINTS.get(key, ""),
                    param="config_file",
                )
        elif key == "bias":
            if value not in (None, "none"):
                raise _invalid("bias", value, 'adapters without biases are served: "none"')
        elif key == "init_lora_weights":
            if not any(value is plain or (isinstance(value, str) and value == plain) for plain in _PLAIN_STARTS):
                raise _invalid(key, value, "this start changes the base model's own weights")
        elif key not in _LABELS | _USED:
            raise ConfigKeyRefused(
                f"The configuration has the key {shown(key)}, which is not known here. Remove it if the adapter does "
                "not need it.",
                param="config_file",
            )


def _targets(found: Any) -> tuple[str, ...] | None:
    """Names, not a regular expression: one of those can run for hours."""
    if found == "all-linear":
        return None
    if not isinstance(found, list) or not 1 <= len(found) <= MOST_TARGETS:
        raise _invalid("target_modules", found, f'a list of 1 to {MOST_TARGETS} module names or "all-linear" is wanted')
    for name in found:
        if not isinstance(name, str) or not 1 <= len(name) <= 200:
            raise _invalid("target_modules", name, "every module name is a short string")
    return tuple(sorted(set(found)))


def _invalid(key: str, value: Any, wanted: str) -> ConfigInvalid:
    return ConfigInvalid(f"The configuration says {key} = {shown(str(value))}; {wanted}.", param="config_file")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ConfigInvalid("The configuration has a key twice.", param="config_file")
    return found


def _no_constant(name: str) -> Any:
    raise ConfigInvalid(f"The configuration has the value {name}, which is not JSON.", param="config_file")

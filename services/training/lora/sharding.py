"""A model spread over the ranks: each holds a part of every weight, and fetches a layer's whole ones when it is due.

PyTorch's FSDP2 (`fully_shard`, Zhao et al. 2023, arXiv:2304.11277) around each decoder layer and around the rest. It
swaps a module's parameters for the whole ones before the module's forward pass, and fills the same tensors again before
its backward pass: who saves a parameter for the backward pass, as our kernels do, finds it there (ADR 10).
"""

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from services.training.errors import ShardingUnsupported
from services.training.lora.base_model import BaseModel
from services.training.recipe import Recipe


def check_shardable(recipe: Recipe) -> None:
    """ShardingUnsupported for what cannot be cut into parts."""
    if recipe.tune == "qlora":
        raise ShardingUnsupported(
            "`tune: qlora` holds the base in four bits, whose blocks cannot be spread over processes. Use `tune: "
            "lora`, or set UPLIFT_TRAINING_SHARD=none.",
            param="recipe.tune",
        )


def shard(model: BaseModel, beside: Collection[nn.Parameter] = ()) -> None:
    """Leave this rank its part of every weight, on the model's device; what is `beside` stays whole on every rank.

    Every rank has to come, with equal weights: nothing is sent.
    """
    units = [*_layers(model), model.forward_pass]
    mesh = init_device_mesh(model.device.type, (distributed.get_world_size(),))
    for unit in units:
        fully_shard(
            unit,
            mesh=mesh,
            # of the outermost unit too, or a validation's whole weights would serve the next step's forward pass
            reshard_after_forward=True,
            mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32),
            ignored_params=set(beside),
        )
        _add_gradients_up(cast(FSDPModule, unit))
    for parameter in beside:
        parameter.data = parameter.data.to(model.device)


def is_sharded(model: BaseModel) -> bool:
    return isinstance(model.forward_pass, FSDPModule)


def whole_of(tensor: Tensor) -> Tensor:
    """The whole tensor on every rank, if it is one that is spread; every rank has to come."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """The same on rank 0's CPU alone, and an empty stand-in on the others; a plain tensor is answered as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    whole = tensor.full_tensor()
    return whole.cpu() if distributed.get_rank() == 0 else torch.empty(0, dtype=whole.dtype)


def scattered(whole: Tensor, like: Tensor) -> Tensor:
    """The part of rank 0's whole tensor that belongs to `like`, if it is spread; the others may bring a stand-in."""
    if not isinstance(like, DTensor):
        return whole
    if whole.shape != like.shape:
        whole = torch.empty(like.shape, dtype=whole.dtype)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=0)


def fits(whole: Tensor, like: Tensor) -> bool:
    """Whether it can be `scattered` so."""
    stands_in = isinstance(like, DTensor) and whole.numel() == 0 and distributed.get_rank() > 0
    return stands_in or whole.shape == like.shape


def _layers(model: BaseModel) -> nn.ModuleList:
    layers = getattr(model.network, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        kind = model.whole.config.model_type
        raise ShardingUnsupported(
            f"A {kind} model keeps no list of decoder `layers` that could be spread over processes. Set "
            "UPLIFT_TRAINING_SHARD=none, or train another base model."
        )
    return layers


def _add_gradients_up(unit: FSDPModule) -> None:
    """The loss is divided by the whole batch's weight already; a factor other than the number of ranks asks the backend
    for a scaled sum, which gloo has not, and so a plain one is asked for."""
    unit.set_gradient_divide_factor(1.0)
    unit.set_force_sum_reduction_for_comms(enable=True)

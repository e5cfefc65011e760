"""What lets a large network train: activations computed again, compiled blocks, weights shared out.

turn module -> the same module, prepared; shard of a tensor (1/world of its rows) <-> whole tensor.

Blocks are what networks repeat. They are the unit of all three: compiled one by one (a turn as a
whole cannot be), and gathered one by one, so that only a block's weights are ever whole. Sharding is
FSDP2: Zhao et al., "PyTorch FSDP", 2023, in its per-parameter form.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mmldm.config import TrainConfig
from mmldm.models.layers import ResBlock, SelfAttention
from mmldm.models.transformer import Block
from mmldm.training.distributed import Process

BLOCKS = Block, ResBlock, SelfAttention, ResnetBlock2D, BasicTransformerBlock
MAX_VARIANTS = 64
"""Widths, resolutions and modes of one class of block that are compiled; torch gives up at 8."""


def prepare(module: nn.Module, config: TrainConfig) -> None:
    """Turns on what the recipe asks for; names of weights stay as they are."""
    if config.gradient_checkpointing:
        for network in module.modules():
            if isinstance(network, ModelMixin) and network._supports_gradient_checkpointing:
                network.enable_gradient_checkpointing()
    if config.compile:
        torch._dynamo.config.recompile_limit = MAX_VARIANTS
        for block in _blocks(module):
            block.compile()


def shard(module: nn.Module, process: Process) -> None:
    """Leaves each process one part of every weight; forward and backward gather blocks as they go."""
    mesh = init_device_mesh(process.device.type, (process.world,))
    for block in _blocks(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """Inside, every process holds whole weights, and a forward pass needs no other process.

    A collective call. What is not sharded stays as it is.
    """
    shards = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in shards:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in shards:
            part.reshard()
            # The root is needed first in the backward pass, so it stays whole until then.
            part.set_reshard_after_forward(part is not module, recurse=False)


def reassemble(module: nn.Module, keep: bool) -> None:
    """Puts plain, whole weights back for good, for what reads a module's state; a collective call.

    Args:
        keep: Whether this process wants them.
    """
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            if isinstance(weight, DTensor):
                plain = nn.Parameter(whole(weight.detach()), weight.requires_grad)
                if keep:
                    part.register_parameter(name, plain)


def whole(tensor: Tensor) -> Tensor:
    """A shard's whole tensor on every process, a collective call; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, on the device of `like` and sharded as it is."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    return (part for part in module.modules() if isinstance(part, BLOCKS))

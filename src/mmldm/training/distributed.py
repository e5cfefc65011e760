"""One process, or several started by `torchrun`; and what lets a large network train on them.

Environment (RANK, WORLD_SIZE, LOCAL_RANK) -> Process: who we are, and the few words we exchange.
CPU processes speak gloo, GPUs NCCL.
turn module -> the same module, prepared: activations computed again, blocks compiled, weights shared out;
shard of a tensor (1/world of its rows) <-> whole tensor.

Blocks are what networks repeat. They are the unit of all three: compiled one by one (a turn as a
whole cannot be), and gathered one by one, so that only a block's weights are ever whole. Sharding is
FSDP2: Zhao et al., "PyTorch FSDP", 2023, in its per-parameter form.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mmldm.errors import RefusedElsewhereError, UserError
from mmldm.models.layers import ResBlock, SelfAttention
from mmldm.models.transformer import Block
from mmldm.sections import TrainConfig

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long processes wait for each other: rank 0 scans and encodes for hours while the others do
nothing. A process that dies is noticed at once, by `torchrun`."""
BLOCKS = Block, ResBlock, SelfAttention, ResnetBlock2D, BasicTransformerBlock
DEVICES = "cpu", "cuda", "mps"
"""Kinds of devices that a person may name; a GPU among several is cuda:1."""
MAX_VARIANTS = 64
"""Widths, resolutions and modes of one class of block that are compiled; torch gives up at 8."""


@dataclass(frozen=True)
class Process:
    """This process among `world`. Rank 0 alone writes files."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def rows(self, batch_size: int) -> range:
        """This process's contiguous rows of the global batch."""
        local = batch_size // self.world
        return range(self.rank * local, (self.rank + 1) * local)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over processes of a tensor of any shape, in place."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def maximum(self, values: Tensor) -> Tensor:
        """Largest value over processes of a tensor of any shape, in place."""
        if self.world > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        return values

    def from_main(self, value: int) -> int:
        """Rank 0's value on every process; also a barrier."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, device=self.device)
        dist.broadcast(shared, src=0)
        return int(shared.item())

    def on_main(
        self, work: Callable[[], T], meanwhile: Callable[[], None] | None = None
    ) -> T | None:
        """Rank 0 does `work`, the others wait for it; its result, None on the others.

        Args:
            work: What only one process may do.
            meanwhile: What the others do: their share of the collective calls in `work`.

        Raises:
            UserError: Rank 0 was refused something; on the others as `RefusedElsewhereError`.
        """
        # The others have to hear of a refusal, or they would wait for rank 0 for ever.
        result, refused = None, None
        if self.is_main:
            try:
                result = work()
            except UserError as error:
                refused = error
        elif meanwhile is not None:
            meanwhile()
        if self.from_main(refused is not None):
            raise refused or RefusedElsewhereError("refused by rank 0")
        return result

    def together(self, share: Callable[[], T]) -> T:
        """Every process does its share; what any of them is refused ends all, and rank 0 says it.

        Raises:
            UserError: Of the first process that was refused; on others than rank 0 as
                `RefusedElsewhereError`.
        """
        result, refused = None, None
        try:
            result = share()
        except UserError as error:
            refused = error
        # Rank 0 speaks for all: the others leave without a word.
        sentences = [said for said in self.texts("" if refused is None else str(refused)) if said]
        if sentences:
            if not self.is_main:
                raise RefusedElsewhereError(sentences[0])
            raise refused or UserError(sentences[0])
        return cast("T", result)

    def texts(self, text: str) -> list[str]:
        """Every process's text, by rank, on every process."""
        if self.world == 1:
            return [text]
        # Tensors alone travel: the lengths first, then the bytes, filled up to the longest.
        data = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        size = torch.tensor(len(data), device=self.device)
        sizes = [torch.zeros_like(size) for _ in range(self.world)]
        dist.all_gather(sizes, size)
        lengths = [int(size) for size in sizes]
        padded = data.new_zeros(max(lengths) or 1)
        padded[: len(data)] = data
        gathered = [torch.zeros_like(padded) for _ in range(self.world)]
        dist.all_gather(gathered, padded)
        cut = zip(gathered, lengths, strict=True)
        return [bytes(some[:length].tolist()).decode() for some, length in cut]


@contextmanager
def process_group(device: str | None = None) -> Iterator[Process]:
    """Joins the group that `torchrun` announced, or runs alone.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps"; None: the GPU where there is one, else the CPU.

    Raises:
        UserError: The device does not exist, or the group is not as large as announced.
    """
    # `torchrun` tells each process who it is by its environment.
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        yield Process(device=chosen)
        return
    if "MASTER_ADDR" not in os.environ:
        raise UserError(f"WORLD_SIZE is {world} but MASTER_ADDR is not set: start with torchrun")
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        # Some launchers start the processes without joining them: each would train and write alone.
        if dist.get_world_size() != world:
            raise UserError(f"{dist.get_world_size()} processes joined, {world} were announced")
        yield Process(rank, world, chosen)
        dist.barrier()
    finally:
        # What still refers to the group (DDP's buckets, in reference cycles) must go before it: its
        # threads outlive it otherwise, and the interpreter aborts at exit, now and then.
        gc.collect()
        dist.destroy_process_group()


def wait_for(device: torch.device) -> None:
    """Returns once the device has done all that was asked of it; needed around every timing."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def choose_device(name: str | None, local_rank: int = 0) -> torch.device:
    """The named device; None: this process's GPU where there is one, else the CPU.

    A Mac's GPU (mps) counts where its numbers agree with the CPU's (`agrees_with_cpu`).

    Raises:
        UserError: It does not exist here, or computes something else than the CPU.
    """
    if name is None and not torch.cuda.is_available():
        mps = torch.backends.mps.is_available() and agrees_with_cpu("mps")
        return torch.device("mps" if mps else "cpu")
    name = name or "cuda"
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise UserError(f"device {name}: there is no such device; known are {', '.join(DEVICES)}")
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local_rank)
        # The only proof that it is there.
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        # A torch that was built without CUDA asserts; one without mps says a thousand characters.
        raise UserError(
            f"device {name}: not usable here (this machine, or its torch, has none): leave --device out, or "
            "say cpu"
        ) from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if device.type == "mps" and not agrees_with_cpu(device):
        raise UserError(
            f"device {name}: a tiny network computes something else there than on the CPU: say cpu, or try "
            "another version of torch"
        )
    return device


def agrees_with_cpu(device: str | torch.device) -> bool:
    """Whether a tiny network of the kinds of layers that we use gives there what it gives on the CPU.

    Forward and backward, in float32, to 1 % of the largest value. A device that lacks a layer does not agree.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images = torch.randn(2, 8, 8, 8)
        network = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.SiLU(),
            nn.Flatten(2),
            nn.LayerNorm(64),
            nn.TransformerEncoderLayer(64, 2, 64, dropout=0.0, batch_first=True),
        )

    def computed(place: str | torch.device) -> list[Tensor]:
        """Output (2,8,64) and the gradients, of the weights' shapes."""
        network.to(place).zero_grad()
        output: Tensor = network(images.to(place))
        output.square().mean().backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        return [x.detach().float().cpu() for x in (output, *gradients)]

    expected = computed("cpu")
    try:
        found = computed(device)
    except (RuntimeError, TypeError):
        # A layer, or a type of numbers, that the device lacks.
        return False
    return all(
        bool((a - b).abs().max() <= 0.01 * a.abs().max() + 1e-6)
        for a, b in zip(expected, found, strict=True)
    )


def prepare(module: nn.Module, config: TrainConfig) -> None:
    """Turns on what the recipe asks for; names of weights stay as they are."""
    if config.gradient_checkpointing:
        for network in module.modules():
            if isinstance(network, ModelMixin) and network._supports_gradient_checkpointing:
                network.enable_gradient_checkpointing()
    if config.compile:
        # Each width and resolution compiles the same class again.
        torch._dynamo.config.recompile_limit = MAX_VARIANTS
        for block in _blocks(module):
            block.compile()


def shard(module: nn.Module, process: Process) -> None:
    """Leaves each process one part of every weight; forward and backward gather blocks as they go."""
    mesh = init_device_mesh(process.device.type, (process.world,))
    # From the inside out: what is left for the last call is what no block holds.
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
    """A shard's whole tensor, of any shape, on every process, a collective call; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor of any shape, on the device of `like` and sharded as it is."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    return (part for part in module.modules() if isinstance(part, BLOCKS))

"""A program of two processes: how often a sharded or whole turn reduces gradients in a step.

torchrun -m tests.training.counting SHARDING ACCUMULATE -> "reductions N", of one step, from rank 0.
"""

import sys
from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from mmldm.training.distributed import process_group
from mmldm.training.optim import Turn

from .tiny_stage import TinyStage, tiny_config

SUMS = ("reduce_scatter", "allreduce", "all_reduce")


class Collectives(TorchDispatchMode):
    """Counts the operations of a process group by name, with the numbers that they move."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        tensors = [x for x in pytree.tree_leaves(args) if isinstance(x, torch.Tensor)]
        # Norms and flags are single numbers.
        if any(word in name for word in SUMS) and sum(x.numel() for x in tensors) > 64:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def main() -> None:
    torch.set_num_threads(1)
    sharding, accumulate = sys.argv[1], int(sys.argv[2])
    with process_group("cpu") as process:
        config = tiny_config(sharding=sharding, accumulate=accumulate)
        stage = TinyStage(config, 0)
        turn = Turn("model", stage.turns["model"], config, 0.01, process)
        batch = next(stage.batches(0, process.rank, process.world))
        rows = len(batch["row"]) // accumulate
        passes = [
            pytree.tree_map(lambda x, i=i: x[i * rows : (i + 1) * rows], batch)
            for i in range(accumulate)
        ]
        with Collectives() as seen:
            turn.step(passes, seed=0, step=0, factor=1.0)
        dist.barrier()
        if process.is_main:
            print("reductions", sum(seen.counts.values()), dict(seen.counts))


main()

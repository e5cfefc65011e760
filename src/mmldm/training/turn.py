"""One turn's optimisers and what they move: forward, backward, clip, and an update bad numbers cannot reach.

batch (rows, ...) -> terms {"loss": ()}; gradients -> weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmldm.config import TrainConfig
from mmldm.training.distributed import Process
from mmldm.training.muon import Muon, hidden_weights
from mmldm.training.randomness import StepRandom, reseed
from mmldm.training.scaling import part_of, prepare, shard, whole

ADAMW_KEYS = "step", "exp_avg", "exp_avg_sq"


class Turn:
    """A turn's module, on its device, with AdamW, and Muon for hidden layers where the recipe asks.

    Weight decay acts on matrices and kernels, not on vectors (norms, biases).

    Args:
        name: "model", "critic".
        module: Called with (batch, random), returns named 0-d terms.
        config: Optimiser settings.
        learning_rate: Peak learning rate.
        process: This process; with others gradients are averaged, and the weights of "model" are
            sharded where the recipe asks. Other turns are small, and a turn may call another's
            network, which only whole weights allow.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        config: TrainConfig,
        learning_rate: float,
        process: Process,
    ) -> None:
        self.name = name
        self.module = module.to(process.device).train()
        self.learning_rate = learning_rate
        self._config = config
        self._process = process
        self._forward: nn.Module = module
        prepare(module, config)
        if process.world > 1 and name == "model" and config.sharding == "full":
            shard(module, process)
        elif process.world > 1:
            self._forward = DistributedDataParallel(module, broadcast_buffers=False)
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        rate = config.matrix_learning_rate if name == "model" else None
        matrices = {} if rate is None else hidden_weights(module)
        rest = [p for n, p in self.parameters.items() if n not in matrices]
        decay = config.weight_decay
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [
                    {"params": [p for p in rest if p.ndim >= 2], "weight_decay": decay},
                    {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
                ],
                lr=learning_rate,
                betas=config.betas,
                fused=True,
            )
        ]
        if rate is not None and matrices:
            self.optimizers.append(Muon(matrices.values(), lr=rate, weight_decay=decay))
        self._peaks = [[group["lr"] for group in o.param_groups] for o in self.optimizers]

    def open(self, trainable: bool) -> None:
        """Lets gradients reach this turn's weights, or not (while another turn runs)."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(trainable)

    def step(
        self, passes: Sequence[Any], seed: int, step: int, factor: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One optimiser step.

        Args:
            passes: The local rows, cut into accumulated passes.
            seed: The run's seed.
            step: Steps completed before this one.
            factor: Multiplies the learning rate.

        Returns:
            Mean terms with "gradient_norm", and whether the update was withheld (0-d bool). Both
            stay on the device; nothing here waits for it.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for micro, batch in enumerate(passes):
            is_last = micro == len(passes) - 1
            reseed(seed, step, self.name, self._process.rank, micro, self._process.device)
            with self._unsynchronised(not is_last):
                with self._autocast():
                    terms = self._forward(batch, self._random(seed, step, micro, len(passes)))
                (terms["loss"] / len(passes)).backward()
            for name, value in terms.items():
                value = value.detach().float() / len(passes)
                sums[name] = sums[name] + value if name in sums else value
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        finite = torch.isfinite(norm) & torch.isfinite(sums["loss"])
        bad = self._process.maximum((~finite).float())
        torch.nn.utils.clip_grads_with_norm_(
            list(self.parameters.values()), self._config.clip_norm, norm
        )
        for optimizer, peaks in zip(self.optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            # This flag is read on the device and leaves weights, moments and step counts untouched
            # when it is 1: a NaN never reaches them, and the host need not ask.
            optimizer.found_inf = bad  # type: ignore[attr-defined]
            optimizer.step()
        return {**sums, "gradient_norm": norm}, bad > 0

    def optimizer_state(self) -> dict[str, Tensor]:
        """The optimisers' tensors as `turn.parameter.moment`."""
        return {
            f"{self.name}.{name}.{key}": value
            for name, parameter in self.parameters.items()
            for optimizer in self.optimizers
            for key, value in optimizer.state.get(parameter, {}).items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes over the module's saved, whole weights."""
        current = self.module.state_dict()
        self.module.load_state_dict(
            {n: part_of(t, like=current[n]) if n in current else t for n, t in state.items()}
        )

    def load_optimizer_state(self, state: dict[str, Tensor]) -> None:
        """Takes over saved tensors; weights without any (never updated) stay without."""
        owners = {
            id(parameter): optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        for name, parameter in self.parameters.items():
            prefix = f"{self.name}.{name}."
            optimizer = owners[id(parameter)]
            keys = ("momentum_buffer",) if isinstance(optimizer, Muon) else ADAMW_KEYS
            values = {key: state[prefix + key] for key in keys if prefix + key in state}
            for key, value in values.items():
                # A moment lies where its weight does; AdamW's step count is one number.
                values[key] = (
                    part_of(value, like=parameter)
                    if value.shape == parameter.shape
                    else value.to(parameter.device)
                )
            if values:
                optimizer.state[parameter] = values

    def _random(self, seed: int, step: int, micro: int, passes: int) -> StepRandom:
        local = self._process.rows(self._config.batch_size)
        size = len(local) // passes
        rows = range(local.start + micro * size, local.start + (micro + 1) * size)
        return StepRandom(
            seed, step, self.name, self._config.batch_size, rows, micro, self._process.device
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._config.precision == "bf16":
            return torch.autocast(self._process.device.type, torch.bfloat16)
        return nullcontext()

    def _unsynchronised(self, wanted: bool) -> AbstractContextManager[Any]:
        if wanted and isinstance(self._forward, DistributedDataParallel):
            return self._forward.no_sync()
        return nullcontext()


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then linear decay to `final_learning_rate` at the last step.

    Args:
        step: Steps completed before this one.
        config: Gives steps, warmup_steps, final_learning_rate.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    share = (step - config.warmup_steps) / max(config.steps - 1 - config.warmup_steps, 1)
    return 1 + share * (config.final_learning_rate - 1)

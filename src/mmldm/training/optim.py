"""What moves the weights: a turn's optimisers (AdamW, and Muon for hidden layers), and the weights' average.

batch (rows, ...) -> terms {"loss": ()} -> gradients -> weights -> their running average, which is validated
and exported. An update with bad numbers cannot reach the weights.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from mmldm.pipelines.precision import product_type
from mmldm.sections import TrainConfig
from mmldm.training.budget import Schedule
from mmldm.training.distributed import Process, part_of, prepare, shard, whole
from mmldm.training.randomness import StepRandom, reseed

ADAMW_KEYS = "step", "exp_avg", "exp_avg_sq"
MUON_KEYS = ("momentum_buffer",)
QUINTIC = 3.4445, -4.7750, 2.0315
"""Coefficients of the iteration that sends singular values of (0, 1] towards [0.7, 1.2]."""
ITERATIONS = {torch.float32: (4,), torch.bfloat16: (2, 2)}
"""How many a Gram matrix carries: rounding spoils it, so bfloat16 needs a fresh one in between. Four of them
leave small singular values small, and train better than five or three (docs/lab-notes.md)."""
LEAST_SIDE = 32
"""A layer thinner than this on either side is no hidden layer."""


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
        self._bfloat16 = config.precision == "bf16"

        # Weights are shared out before the optimisers see them: their moments lie where the weights do.
        self._forward: nn.Module = module
        prepare(module, config)
        if process.world > 1 and name == "model" and config.sharding == "full":
            shard(module, process)
        elif process.world > 1:
            # torch 2.13 has another name for it, which 2.10 does not know.
            with warnings.catch_warnings(action="ignore", category=FutureWarning):
                self._forward = DistributedDataParallel(module, broadcast_buffers=False)

        # Muon moves the hidden layers of the model where the recipe has a rate for it; AdamW moves the rest.
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        rate = config.matrix_learning_rate if name == "model" else None
        matrices = {} if rate is None else hidden_weights(module)
        rest = [p for n, p in self.parameters.items() if n not in matrices]
        decay = config.weight_decay
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=learning_rate, betas=config.betas, fused=True)
        ]
        if rate is not None and matrices:
            self.optimizers.append(Muon(matrices.values(), lr=rate, weight_decay=decay))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak"] = group["lr"]

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
            Mean terms, each (), with "gradient_norm", and whether the update was withheld, () bool. Both
            stay on the device; nothing here waits for it.
        """
        # Forward and backward, pass by pass; processes average their gradients in the last one alone.
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for micro, batch in enumerate(passes):
            is_last = micro == len(passes) - 1
            reseed(seed, step, self.name, self._process.rank, micro, self._process.device)
            with self._reducing(is_last), self._attention():
                with torch.autocast(
                    self._process.device.type, torch.bfloat16, enabled=self._bfloat16
                ):
                    terms = self._forward(batch, self._random(seed, step, micro, len(passes)))
                (terms["loss"] / len(passes)).backward()
            for name, value in terms.items():
                value = value.detach().float() / len(passes)
                sums[name] = sums[name] + value if name in sums else value

        # Clip, and ask every process whether loss and gradients are finite.
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        finite = torch.isfinite(norm) & torch.isfinite(sums["loss"])
        bad = self._process.maximum((~finite).float())
        torch.nn.utils.clip_grads_with_norm_(
            list(self.parameters.values()), self._config.clip_norm, norm
        )

        # Move the weights, each optimiser at its rate for this step.
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
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

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes over the module's saved, whole weights."""
        # Each process takes its part of the weights that are sharded; buffers are whole.
        current = self.module.state_dict()
        self.module.load_state_dict(
            {n: part_of(t, like=current[n]) if n in current else t for n, t in state.items()}
        )

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes over saved tensors; weights without any (never updated) stay without."""
        names = {parameter: name for name, parameter in self.parameters.items()}
        for optimizer in self.optimizers:
            keys = MUON_KEYS if isinstance(optimizer, Muon) else ADAMW_KEYS
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                prefix = f"{self.name}.{names[parameter]}."
                saved = {key: state[prefix + key] for key in keys if prefix + key in state}
                for key, value in saved.items():
                    # A moment lies where its weight does; AdamW's step count is one number.
                    optimizer.state[parameter][key] = (
                        part_of(value, like=parameter)
                        if value.shape == parameter.shape
                        else value.to(parameter.device)
                    )

    def _random(self, seed: int, step: int, micro: int, passes: int) -> StepRandom:
        """The numbers of one pass over this process's rows."""
        local = self._process.rows(self._config.batch_size)
        size = len(local) // passes
        rows = range(local.start + micro * size, local.start + (micro + 1) * size)
        return StepRandom(
            seed, step, self.name, self._config.batch_size, rows, micro, self._process.device
        )

    def _attention(self) -> AbstractContextManager[Any]:
        """Attention in the form that is fast here, for both passes: a block computed again is the same."""
        if self._bfloat16 and self._process.device.type == "cpu":
            # The gradient of torch's fused attention takes five times longer there in bfloat16 than in
            # float32; that of plain products is faster than both (docs/performance.md).
            return sdpa_kernel(SDPBackend.MATH)
        return nullcontext()

    def _reducing(self, wanted: bool) -> AbstractContextManager[Any]:
        """Inside, a backward pass averages gradients over processes, or keeps them for one that does."""
        if isinstance(self._forward, FSDPModule):
            # Until then a process holds gradients of whole weights: memory for less traffic.
            self._forward.set_requires_gradient_sync(wanted)
        elif isinstance(self._forward, DistributedDataParallel) and not wanted:
            return self._forward.no_sync()
        return nullcontext()


def learning_rate_factor(step: int, config: TrainConfig, schedule: Schedule) -> float:
    """Linear warm-up, then 1, then a linear fall to `final_learning_rate` at the last step.

    Args:
        step: Steps completed before this one.
        config: Gives warmup_steps, final_learning_rate.
        schedule: Where warm-up and fall begin. A fall that is due before the warm-up ends multiplies it.
    """
    warmed = step - schedule.start
    rise = min(1.0, (warmed + 1) / (config.warmup_steps + 1))
    if schedule.fall is None or schedule.end is None or step < schedule.fall:
        return rise
    share = (step - schedule.fall) / max(schedule.end - 1 - schedule.fall, 1)
    return rise * (1 + share * (config.final_learning_rate - 1))


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for the matrices and kernels inside a network.

    A gradient (out, in, ...) becomes an update with all singular values near 1; matrices of one shape go
    through in one batch. Vectors, embeddings and the thin layers at a network's ends belong to AdamW.

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. torch's own
    `torch.optim.Muon` takes no kernels, loops over matrices one by one, and rounds to bfloat16 on a CPU too.

    Attributes:
        found_inf: () tensor; 1 withholds an update, as in torch's fused optimisers.

    Args:
        lr: Step in units of the orthogonal update, times sqrt(max(1, out / in)).
        momentum: Nesterov's.
        weight_decay: Decoupled, as AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Moves every weight that has a gradient; returns the closure's loss, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    alike[weight.flatten(1).shape].append(weight)
            for weights in alike.values():
                self._step(weights, group)
        return loss

    def _step(self, weights: list[Tensor], group: Mapping[str, Any]) -> None:
        """Moves weights (R,C,...) that are alike as matrices (R,C x ...)."""
        momentum, lr = group["momentum"], group["lr"]
        keep = torch.ones((), device=weights[0].device)
        if self.found_inf is not None:
            keep = 1 - self.found_inf.to(keep.device)

        # Nesterov's momentum: the gradient, looking ahead along the buffer that it has just moved.
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
        # nan * 0 is nan: a bad gradient has to be replaced, not scaled away.
        gradients = [torch.where(keep > 0, w.grad, 0.0) for w in weights if w.grad is not None]
        torch._foreach_lerp_(buffers, gradients, (1 - momentum) * keep)
        ahead = torch._foreach_lerp(gradients, buffers, momentum)

        # Only a whole matrix can be orthogonalised; each process then takes its part of the update.
        matrices = torch.stack([whole(x).flatten(1) for x in ahead])
        updates = orthogonalise(matrices, product_type(matrices.device))
        rows, columns = updates.shape[1:]
        updates = updates * (-lr * max(1.0, rows / columns) ** 0.5 * keep)
        torch._foreach_mul_(weights, 1 - lr * group["weight_decay"] * keep)
        parts = [part_of(u.view(w.shape), like=w) for u, w in zip(updates, weights, strict=True)]
        torch._foreach_add_(weights, parts)


def hidden_weights(module: nn.Module) -> dict[str, Tensor]:
    """Names and weights (out, in, ...) of the linear and convolution layers inside that Muon moves."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {
        f"{name}.weight": layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, layers)
        and layer.weight.requires_grad
        and min(layer.weight.flatten(1).shape) >= LEAST_SIDE
    }


def orthogonalise(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Nearest matrices with equal singular values, roughly: (N,R,C) -> (N,R,C).

    The iteration X <- (a + b G + c G^2) X with G = X X^T multiplies X by polynomials of the first G alone.
    So it runs on G, as small as the shorter side, and X is multiplied once, at the end. The result is that
    of the iteration on X, to rounding.

    Args:
        dtype: Of the products, one of `ITERATIONS`.
    """
    # The Gram matrix is smaller for a wide matrix.
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    x = x.to(dtype)
    for iterations in ITERATIONS[dtype]:
        x = _polynomial(x @ x.mT, iterations) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def _polynomial(gram: Tensor, iterations: int) -> Tensor:
    """What so many iterations multiply X by, from X X^T: (N,n,n) -> (N,n,n)."""
    a, b, c = QUINTIC
    product = None
    for iteration in range(iterations):
        factor = b * gram + c * gram @ gram
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if iteration < iterations - 1:
            # (factor X) (factor X)^T; all of them are symmetric and commute.
            gram = factor @ gram @ factor
    assert product is not None, "an iteration at least"
    return product


class Average:
    """Exponential moving average of trainable parameters and floating-point buffers, f32.

    average <- decay * average + (1 - decay) * weights, with decay = min(ema_decay, (1 + n) / (10 +
    n)) at the n-th update, so that the first weights are soon forgotten.

    Args:
        modules: Name -> module; its weights are named `name.parameter`.
        decay: The final decay; None: no averaging, `swapped` then changes nothing.
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float | None) -> None:
        self._decay = decay
        self._live: dict[str, Tensor] = {}
        for name, module in modules.items() if decay is not None else ():
            named = [(n, p.data) for n, p in module.named_parameters() if p.requires_grad]
            named += [(n, b) for n, b in module.named_buffers() if b.is_floating_point()]
            self._live |= {f"{name}.{n}": tensor for n, tensor in named}
        self._average = {name: tensor.clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after `step` + 1 steps."""
        if self._decay is None or not self._live:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._average.values()), list(self._live.values()), 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the modules hold the average; afterwards the weights they had."""
        kept = {name: tensor.clone() for name, tensor in self._live.items()}
        self._write(self._average)
        try:
            yield
        finally:
            self._write(kept)

    def state(self) -> dict[str, Tensor]:
        """The averages by name."""
        return self._average

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes over saved averages."""
        for name, tensor in self._average.items():
            tensor.copy_(part_of(state[name], like=tensor))

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self._live.items():
            tensor.copy_(values[name])

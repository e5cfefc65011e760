"""Where the precision of sampling is decided, and nowhere else; and that of networks which a job only uses.

what is asked for, device -> "fp32", "tf32" or "bf16" -> networks in it. What is random, the samplers' states,
the statistics of latents, spectrograms and vocoders stay in float32: eight bits of a waveform would be heard.
A training step's own precision is its recipe's (`training.optim`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, cast

from mmldm.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mmldm.pipelines.sounding_video import SoundingVideoPipeline

Precision = Literal["fp32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
"""fp32 is torch as it is, whose convolutions on a GPU are TF32 where cuDNN has it; tf32: all products are."""
CAST = ("vae", "autoencoder", "generator", "student")
"""Components that compute in bfloat16. A vocoder does not."""
STATISTICS = ("mean", "std")
"""Buffers that scale latents from one network to the next."""
WITHOUT_GRADIENTS = ("cuda", "mps")
"""Devices on which networks that a bf16 job only uses compute in bfloat16. The CPUs that train in it were
slower without gradients (docs/performance.md)."""


def require_precision(name: str | None) -> None:
    """Checks what a person asks for, before torch is loaded.

    Raises:
        UserError: There is no such precision.
    """
    if name is not None and name not in PRECISIONS:
        raise UserError(f"--precision must be fp32, tf32 or bf16, not {name!r}.")


def choose_precision(name: str | None, device: torch.device) -> Precision:
    """The precision that is asked for; None: the device's own.

    bfloat16 on a GPU that multiplies it, float32 on a CPU and on mps.

    Raises:
        UserError: There is no such precision, or the device does not have it.
    """
    require_precision(name)
    if name is None:
        return "bf16" if multiplies_bfloat16(device) else "fp32"
    if name == "tf32" and not multiplies_bfloat16(device):
        raise UserError(
            f"--precision tf32 is of NVIDIA GPUs from 2020 on, and this device is {device.type}: say fp32 or "
            "bf16."
        )
    return cast("Precision", name)


def repeated_precision(made: Precision, device: torch.device) -> Precision:
    """That of a clip which is made again; the device's own where it does not have that."""
    try:
        return choose_precision(made, device)
    except UserError:
        return choose_precision(None, device)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a GPU multiplies bfloat16 (and TF32, which came with it) in hardware."""
    if device.type != "cuda":
        return False
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def product_type(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it several times faster: newer GPUs, and CPUs with AMX."""
    import torch

    is_faster = False
    if device.type == "cpu":
        # Versions of torch that cannot tell are taken at their slowest.
        capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        is_faster = bool(capabilities.get("amx_bf16"))
    else:
        is_faster = multiplies_bfloat16(device)
    return torch.bfloat16 if is_faster else torch.float32


def dtype_of(precision: Precision) -> torch.dtype:
    """Of weights in this precision."""
    import torch

    return torch.bfloat16 if precision == "bf16" else torch.float32


def sample_in(pipeline: SoundingVideoPipeline, precision: Precision) -> None:
    """Has a pipeline sample, encode and decode in a precision, for good.

    With tf32 all products of this process are. Take `provenance.sha256_of_model` first: it is of
    weights as they were loaded.
    """
    if precision == "tf32":
        allow_tf32()
    for name in CAST:
        network: nn.Module | None = getattr(pipeline, name)
        if network is not None:
            cast_network(network, precision)


def allow_tf32() -> None:
    """Lets this process multiply float32 matrices in TF32."""
    import torch

    torch.set_float32_matmul_precision("high")


def cast_network(network: nn.Module, precision: Precision) -> None:
    """Gives a network weights of this precision; statistics of latents stay as they are."""
    from torch import nn

    kept = {
        name: buffer
        for name, buffer in network.named_buffers()
        if name.rpartition(".")[2] in STATISTICS
    }
    # Past diffusers' own `to`, which warns of modules that must stay in float32 even where there are none.
    nn.Module.to(network, dtype=dtype_of(precision))
    for name, buffer in kept.items():
        owner, _, own = name.rpartition(".")
        setattr(network.get_submodule(owner), own, buffer)


def used_in(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Inside, networks of float32 weights that are not trained compute in their job's precision.

    So do encoders that fill caches, validation and previews. A CPU stays with float32.
    """
    import torch

    wanted = precision == "bf16" and device.type in WITHOUT_GRADIENTS
    kind = device.type if wanted else "cpu"
    return torch.autocast(kind, torch.bfloat16, enabled=wanted)


def told(precision: Precision) -> str:
    """What a person reads where it is not float32."""
    return f"sampled in {precision}; --precision fp32 keeps more digits"

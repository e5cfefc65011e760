"""How numbers are multiplied: in their own precision, and by the faster library where nothing learns.

x (...,in), weight (out,in) -> (...,out)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, nothing is rounded by autocast. It does not know every device: "meta" has none."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


ONE_DNN_LINEAR: Callable[..., Tensor] | None = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""oneDNN's product, as torch's compiler uses it; None where this build of torch has none."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """(...,in), (out,in), (out,) -> (...,out), as torch's; without gradients by oneDNN on a CPU in float32.

    torch itself uses MKL there, which on processors of AMD takes twice as long (docs/performance.md).

    Args:
        gelu: Whether GELU (its tanh form) is taken of what comes out.
    """
    plain = type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32
    learns = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
    if ONE_DNN_LINEAR is None or not plain or learns:
        out = F.linear(x, weight, bias)
        return F.gelu(out, approximate="tanh") if gelu else out
    then: tuple[str, list[float], str] = ("gelu", [], "tanh") if gelu else ("none", [], "")
    return ONE_DNN_LINEAR(x, weight, bias, *then)

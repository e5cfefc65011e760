"""What a call costs, counted by its operations: run, or on tensors without numbers.

call -> FLOP; a multiplication and an addition are two
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from mmldm.arithmetic import ONE_DNN_LINEAR


def count_flops(call: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    """What a call costs, its backward passes included, and what it returns.

    Matrix products and convolutions count, a multiplication and an addition as two; elementwise
    operations and Fourier transforms do not. Real tensors and fake ones count alike.
    """
    # Attention in its plain form: the counter has no formula for the fused one of a CPU.
    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter:
        result = call(*arguments)
    return counter.get_total_flops(), result


def _linear_flops(x: torch.Size, weight: torch.Size, *others: Any, **options: Any) -> int:
    """Shapes (...,in) and (out,in) -> FLOP of their product."""
    return 2 * math.prod(x) * weight[0]


if ONE_DNN_LINEAR is not None:
    register_flop_formula(ONE_DNN_LINEAR)(_linear_flops)


def count_without_running(call: Callable[[], Any]) -> int:
    """What a call on real networks costs, counted on fake tensors: nothing is computed.

    A call whose shapes depend on numbers, as of what a critic judges, is run for it.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return count_flops(call)[0]
    except (DynamicOutputShapeException, DataDependentOutputException):
        return count_flops(call)[0]

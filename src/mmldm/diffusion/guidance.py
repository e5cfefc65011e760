"""Classifier-free and cross-modal guidance: two predictions -> one.

given, null AV((B,...)) -> AV((B,...)). MM-LDM §3.3, Eq. 8.
"""

from __future__ import annotations

from torch import Tensor

from mmldm.types import AV


def guide(given: AV[Tensor], null: AV[Tensor], scale: AV[float]) -> AV[Tensor]:
    """Extrapolates from the null prediction through the conditional one, per modality.

    phi * given + (1 - phi) * null. Eq. 8 prints a minus between the two terms, with which the
    weights sum to 2 phi - 1; the plus keeps the sum at 1.

    Args:
        given: Prediction with the condition.
        null: Prediction without it.
        scale: phi; 1 is the conditional prediction itself, 0 the null one.
    """
    return given.map(lambda g, n, phi: phi * g + (1 - phi) * n, null, scale)

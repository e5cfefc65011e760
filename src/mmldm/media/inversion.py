"""Mel magnitudes to sound without a vocoder: least squares, then phases.

mel magnitudes (B,M,L) -> linear magnitudes (B,F,L) -> spectrum (B,F,L) complex -> waveform (B,S).
Lee & Seung 2001 (multiplicative updates); Perraudin, Balazs & Sondergaard 2013 (fast Griffin-Lim).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

NNLS_ITERATIONS = 20
MOMENTUM = 0.99


def linear_magnitudes(mel: Tensor, filterbank: Tensor) -> Tensor:
    """Non-negative linear magnitudes (B,F,L) whose mel projection is nearest to `mel` (B,M,L).

    Bins that no filter sees stay zero.
    """
    target = filterbank.T @ mel
    magnitudes = target.clone()
    for _ in range(NNLS_ITERATIONS):
        # Two products with the (M,F) filterbank cost less than one with its (F,F) square.
        projected = filterbank.T @ (filterbank @ magnitudes)
        magnitudes = magnitudes * target / projected.clamp(min=1e-12)
    return magnitudes


def phases(
    magnitudes: Tensor,
    stft: Callable[[Tensor], Tensor],
    istft: Callable[[Tensor], Tensor],
    iterations: int,
    seed: int,
) -> Tensor:
    """A complex spectrum (B,F,L) with the given magnitudes, near one that a signal can have.

    Args:
        stft: waveform (B,S) -> spectrum (B,F,L).
        istft: spectrum (B,F,L) -> waveform (B,S).
        seed: Of the starting phases, drawn once on the CPU and shared by the batch.
    """
    generator = torch.Generator().manual_seed(seed)
    turns = torch.rand(magnitudes.shape[1:], generator=generator).to(magnitudes)
    spectrum = magnitudes * torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
    previous = torch.zeros_like(spectrum)
    for _ in range(iterations):
        consistent = stft(istft(spectrum))
        ahead = consistent - MOMENTUM / (1 + MOMENTUM) * previous
        spectrum = ahead * (magnitudes / ahead.abs().clamp(min=1e-16))
        previous = consistent
    return spectrum


def overlap_add(frames: Tensor, window: Tensor, hop: int, weight: Tensor) -> Tensor:
    """Least-squares signal (B, (L - 1) * hop + N) of windowed frames (B,L,N), window (N,).

    Args:
        weight: As `overlap_weight` gives it.
    """
    return _overlapped((frames * window).mT, hop) / weight


def overlap_weight(window: Tensor, hop: int, count: int) -> Tensor:
    """What `count` windows (N,) squared add up to at each sample, (1, (L - 1) * hop + N), above 0."""
    squared = (window**2)[None, :, None].expand(1, len(window), count)
    return _overlapped(squared, hop).clamp(min=1e-8)


def _overlapped(columns: Tensor, hop: int) -> Tensor:
    """Columns (B,N,L), each `hop` samples after the last, added up to (B, (L - 1) * hop + N)."""
    size, count = columns.shape[1:]
    length = (count - 1) * hop + size
    return F.fold(columns, (1, length), kernel_size=(1, size), stride=(1, hop))[:, 0, 0]

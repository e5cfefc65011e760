"""How the channels of a file become one.

Channels (C,n) -> mono (n,) by weights (C,). What sounds and what cancels is judged over the file's
first seconds of sound, once, so that every window of a file is mixed alike. docs/data.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np

# Relative loudness of each speaker in the mono mix (ITU-R BS.775; the low-frequency one is left
# out), scaled to sum to one: a mix of sounds within [-1,1] is within [-1,1].
FRONT, CENTRE, AROUND = 1.0, 1.414, 0.707
USUAL_LAYOUTS, UNNAMED = {2: "stereo", 6: "5.1", 8: "7.1"}, "NONE"
SPEAKERS = {"FL": FRONT, "FR": FRONT, "FC": CENTRE, "LFE": 0.0, "LFE2": 0.0}
NAMES = {"FL": "left", "FR": "right", "FC": "centre"}
# A channel whose power is below this share of the loudest one's (-60 dB) is silent.
SOUNDING = 1e-6
# Power of the mix over what channels that have nothing in common would give. Two alike give 2, two
# equally loud ones of correlation r give 1 + r. Below CANCELLED a single channel is used instead.
CANCELLED, PARTLY_CANCELLED = 0.2, 0.6
# Channels within this share of the loudest one's power are as loud: the first of them is used.
AS_LOUD = 0.9


@dataclass(frozen=True)
class Mix:
    """How channels become one.

    Attributes:
        weights: (C,) float32.
        notes: Sentences for the person who owns the file.
        coherence: As `Powers.coherence`, of the sound that the weights were chosen by.
    """

    weights: np.ndarray
    notes: tuple[str, ...] = ()
    coherence: float = 1.0

    def __call__(self, channels: np.ndarray) -> np.ndarray:
        """Mono (n,) of channels (C,n)."""
        return channels[0] if len(channels) == 1 else self.weights @ channels


class Powers:
    """Sums of products of the channels of a sound, from which the power of any mix follows."""

    def __init__(self, num_channels: int) -> None:
        self.products = np.zeros((num_channels, num_channels))

    def add(self, channels: np.ndarray) -> None:
        """Takes the next samples (C,n); a block with NaN or Inf is passed over."""
        exact = channels.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            products = exact @ exact.T
        if np.isfinite(products).all():
            self.products += products

    @property
    def energies(self) -> np.ndarray:
        """Energy (C,) of each channel."""
        return np.diag(self.products)

    @property
    def sounding(self) -> np.ndarray:
        """Which channels (C,) sound at all."""
        loudest = self.energies.max()
        return (
            self.energies > SOUNDING * loudest if loudest > 0 else np.ones(len(self.energies), bool)
        )

    def coherence(self, weights: np.ndarray) -> float:
        """Energy of the mix over what unrelated channels would give; 1 for silence."""
        unrelated = float((weights.astype(np.float64) ** 2 * self.energies).sum())
        return float(weights @ self.products @ weights) / unrelated if unrelated > 0 else 1.0


def usual_mix(layout: av.AudioLayout) -> Mix:
    """The mix of a layout whose channels are not known yet: all count as sounding."""
    loudness = loudness_of(layout)
    return Mix(loudness / loudness.sum())


def mix_of(layout: av.AudioLayout, powers: Powers) -> Mix:
    """The mix of a file from the first seconds of its sound.

    Channels that are silent do not lower the others. Channels that cancel are not mixed.
    """
    if layout.nb_channels == 1:
        return usual_mix(layout)
    loudness, names = loudness_of(layout), _names(layout)
    audible = powers.sounding & (loudness > 0)
    candidates = powers.energies * audible if audible.any() else powers.energies
    loudest = int(np.argmax(candidates >= AS_LOUD * candidates.max()))
    alone = np.zeros(len(loudness), np.float32)
    alone[loudest] = 1
    if not audible.any():
        return Mix(alone, (f"only its {names[loudest]} channel sounds",))
    weights = (loudness / loudness[audible].sum()).astype(np.float32)
    coherence = powers.coherence(weights)
    if coherence < CANCELLED:
        return Mix(
            alone,
            (
                "its channels cancel each other when they are mixed; its"
                f" {names[loudest]} channel alone is used",
            ),
        )
    notes = []
    silent = [names[k] for k in np.flatnonzero((loudness > 0) & ~audible)]
    if silent:
        notes.append(f"its {_list(silent)} silent; its mix is as loud as if there were none")
    return Mix(weights, (*notes, *partly_cancelled(coherence)), coherence)


def partly_cancelled(coherence: float) -> tuple[str, ...]:
    """A note where a mix loses much of the channels' loudness."""
    if coherence >= PARTLY_CANCELLED:
        return ()
    loss = -10 * np.log10(max(coherence, 1e-6))
    return (f"its channels partly cancel each other when they are mixed ({loss:.0f} dB are lost)",)


def loudness_of(layout: av.AudioLayout) -> np.ndarray:
    """Relative loudness (C,) float32 of the speakers of a layout in the mix."""
    loudness = np.array([SPEAKERS.get(name, AROUND) for name in _speakers(layout)], np.float32)
    return loudness if loudness.any() else np.ones(layout.nb_channels, np.float32)


def _speakers(layout: av.AudioLayout) -> list[str]:
    speakers = [channel.name for channel in layout.channels]
    if set(speakers) != {UNNAMED}:
        return speakers
    usual = USUAL_LAYOUTS.get(len(speakers))
    return [channel.name for channel in av.AudioLayout(usual).channels] if usual else []


def _names(layout: av.AudioLayout) -> list[str]:
    speakers = _speakers(layout) or [f"{number}." for number in range(1, layout.nb_channels + 1)]
    return [NAMES.get(speaker, speaker) for speaker in speakers]


def _list(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} channel is"
    return f"{', '.join(names[:-1])} and {names[-1]} channels are"

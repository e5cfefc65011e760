"""Sound whose spectrogram comes in pieces: finished samples stay, new ones continue their phase.

mel magnitudes (B,M,L) piece by piece -> waveforms (B,S) piece by piece. Fast Griffin-Lim as in
`media.spectrogram`, under one more constraint: samples that are known, before or after, are what they are.
The least-squares inverse weighs each sample by itself, so known samples take their place in it exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmldm.media.spectrogram import (
    AudioImage,
    find_spectrum,
    linear_magnitudes,
    overlapped,
    starting_phases,
)


class PhaseStream:
    """Finds a waveform for mel magnitudes that come in pieces.

    A sample is finished once all spectra that reach it, and a spectrum's length beyond, were there. The first
    and the last samples of a sound see its mirror image, as in `AudioImage`; where sound is known there, they
    see that.

    Args:
        audio_image: Of the clips.
        iterations: Griffin-Lim steps for each piece.
        before: Known samples (B,S), or (1,S) for all, that end where the first column begins; None: the sound
            begins there.
        lead: Mel magnitudes (B,M,L) of the last columns of `before`, as the model sees them; None: none.
    """

    def __init__(
        self,
        audio_image: AudioImage,
        iterations: int,
        before: Tensor | None = None,
        lead: Tensor | None = None,
    ) -> None:
        self._image, self._iterations = audio_image, iterations
        mel = audio_image.spec.spectrogram
        self._hop, self._size, self._padding = mel.hop_length, mel.n_fft, audio_image.padding
        # Columns before the first unfinished sample whose spectra still reach it.
        self.context = -(-(self._size - self._padding) // self._hop) - 1
        # Columns that wait for what comes after them.
        self.ahead = -(-self._size // self._hop)
        self._before = before
        self._magnitudes: Tensor | None = None
        self._turns: Tensor | None = None  # phases (B,F,L) of the first of those columns
        self._lead = 0
        if before is not None and lead is not None:
            self._begin_after(before, lead[..., -self.context - 1 :])

    def _begin_after(self, before: Tensor, lead: Tensor) -> None:
        """Known samples (B,S) and mel magnitudes (B,M,L) of their last columns."""
        self._take(lead)
        self._lead = lead.shape[-1]
        # The first of these columns may lie in what is known as a whole: the others go on from its phases.
        first = before[:, before.shape[1] - self._lead * self._hop - self._padding :]
        if self._lead > self.context and first.shape[1] >= self._size:
            columns = first[:, : self._size].to(lead) * self._image.window
            turns = torch.fft.rfft(columns).angle()[..., None]
            self._turns = turns.expand(len(lead), -1, -1)

    def add(
        self,
        mel: Tensor,
        last: bool = False,
        after: Tensor | None = None,
        trail: Tensor | None = None,
    ) -> Tensor:
        """Takes the next mel magnitudes (B,M,L); gives the samples (B,S) in [-1,1] that are finished by them.

        Args:
            last: Whether they are the last.
            after: With `last`: known samples (B,S), or (1,S), from the end of the last column on.
            trail: With `after`: mel magnitudes (B,M,L) of its first columns.
        """
        self._take(mel)
        assert self._magnitudes is not None
        columns = self._magnitudes.shape[-1]
        ends = columns  # the column, in what is held, at which the new sound ends
        if after is not None and trail is not None and self.context:
            self._take(trail[..., : self.context])
        fresh = columns - self._lead
        finished = fresh if last else max(0, fresh - self.ahead)
        if finished == 0:
            return mel.new_zeros(len(mel), 0)

        spectrum, signal = self._solve(ends if last else None, after)
        # Of the padded signal, sample 0 of the first column with fresh sound is here.
        first = self._padding + self._lead * self._hop
        done = signal[:, first : first + finished * self._hop].clamp(-1, 1)

        # What the next piece needs: finished samples, and columns that reach beyond them.
        held = self._lead + finished
        self._lead = min(self.context, held)
        self._magnitudes = self._magnitudes[..., held - self._lead :]
        self._turns = spectrum.angle()[..., held - self._lead :]
        reach = self._padding + self._lead * self._hop
        known = (
            done
            if self._before is None
            else torch.cat([self._before.to(done).expand(len(done), -1), done], dim=1)
        )
        self._before = known[:, -reach:]
        return done

    def _take(self, mel: Tensor) -> None:
        """Adds columns (B,M,L)."""
        linear = linear_magnitudes(mel / self._image.gain, self._image.filterbank)
        held = self._magnitudes
        self._magnitudes = linear if held is None else torch.cat([held, linear], dim=-1)

    def _solve(self, ends: int | None, after: Tensor | None) -> tuple[Tensor, Tensor]:
        """Spectra (B,F,L) of all columns that are held, and the padded signal (B,S) they make.

        Args:
            ends: The column at which the sound ends; None: it goes on.
            after: Known samples (B,S) from there on.
        """
        assert self._magnitudes is not None
        magnitudes, image, size = self._magnitudes, self._image, self._size
        shape = (1, magnitudes.shape[-1], size)
        weights = overlapped((image.window**2).expand(shape).mT, self._hop).clamp(min=1e-8)
        stop = None if ends is None else self._padding + ends * self._hop

        def fixed(signal: Tensor) -> Tensor:
            """The padded signal (B,S) with what is known, and mirrors where it begins and ends."""
            first = self._padding + self._lead * self._hop
            own = signal[:, self._padding : stop]
            mirrored = F.pad(own[:, None], (self._padding, 0), mode="reflect")[:, 0]
            left, body = mirrored[:, : self._padding], own
            if self._before is not None:
                known = self._before[:, -first:].to(signal).expand(len(signal), -1)
                begin = first - known.shape[1]
                start = torch.cat([signal[:, :begin], known], dim=1)
                left, body = (
                    start[:, : self._padding],
                    torch.cat([start[:, self._padding :], signal[:, first:stop]], dim=1),
                )
            if stop is None:
                return torch.cat([left, body], dim=1)
            room = signal.shape[1] - stop
            if after is not None:
                known = after[:, :room].to(signal).expand(len(signal), -1)
                right = torch.cat([known, signal[:, stop + known.shape[1] :]], dim=1)
            else:
                right = F.pad(body[:, None], (0, room), mode="reflect")[:, 0, body.shape[1] :]
            return torch.cat([left, body, right], dim=1)

        def inverse(spectrum: Tensor) -> Tensor:
            """Spectra (B,F,L) -> the padded signal (B,S), with what is known in its place."""
            frames = torch.fft.irfft(spectrum.mT, n=size) * image.window
            return fixed(overlapped(frames.mT, self._hop) / weights)

        def consistent(spectrum: Tensor) -> Tensor:
            """Spectra (B,F,L) -> those of the signal that is nearest."""
            frames = inverse(spectrum).unfold(-1, size, self._hop)
            return torch.fft.rfft(frames * image.window).mT

        turns = starting_phases(magnitudes, size, self._hop, self._turns)
        spectrum = find_spectrum(magnitudes, turns, consistent, self._iterations)
        return spectrum, inverse(spectrum)

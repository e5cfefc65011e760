"""Guidance (Eq. 8): the generator with and without its conditions, in one call, as one prediction.

conditions -> (noisy AV((B,C,T',H',W')), t) -> guided prediction AV((B,C,T',H',W')). MM-LDM §3.3. The network
itself is Eq. 7 (`models.generator`), the loop over t is Eq. 6 (`diffusion.sampling`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmldm.diffusion.sampling import Denoiser
from mmldm.models.generator import JointGenerator
from mmldm.types import AV, Known


def guide(given: AV[Tensor], null: AV[Tensor], scale: AV[float]) -> AV[Tensor]:
    """Eq. 8: extrapolates from the null prediction through the conditional one, per modality.

    phi * given + (1 - phi) * null. Eq. 8 prints a minus between the two terms, with which the
    weights sum to 2 phi - 1; the plus keeps the sum at 1.

    Args:
        given: Prediction with the condition, AV((B,...)).
        null: Prediction without it, of the same shapes.
        scale: phi; 1 is the conditional prediction itself, 0 the null one.
    """

    def extrapolate(g: Tensor, n: Tensor, phi: float) -> Tensor:
        """(B,...), (B,...) -> (B,...)."""
        return phi * g + (1 - phi) * n

    return given.map(extrapolate, null, scale)


def generator_denoiser(
    generator: JointGenerator,
    noise: AV[Tensor],
    known: Known,
    class_labels: Tensor | None,
    scale: AV[float],
) -> Denoiser:
    """The generator under classifier-free and cross-modal guidance.

    The null prediction of a modality knows neither the other modality nor the class; its own known
    slots it keeps. A generator with `null_stream="noise"` was taught to predict one modality alone,
    so it has a null prediction for each of the two: jointly generated sound and picture then guide
    each other, which the paper's form (`"renoised"`) cannot do.

    Args:
        noise: The clips' own noise AV((B,C,T',H',W')): what the other modality's stream holds in
            the null rows of a generator with `null_stream="noise"`.
        known: Normalised latents (B,C,T',H',W') of known modalities or slots.
        class_labels: (B,), as `JointGenerator.forward`.
        scale: phi of Eq. 8 per modality.
    """
    batch, dtype, device = len(noise.audio), generator.dtype, noise.audio.device

    # Null rows ride in one call with the conditional ones, one set of B rows for each entry here, which says
    # whose streams the set keeps; the others hold noise. Without anything to be guided by there are none.
    nulls: list[AV[bool]] = []
    if scale != (1.0, 1.0):
        if generator.config.null_stream == "noise":
            alone = (AV(True, False), AV(False, True))
            nulls = [kept for kept, whole in zip(alone, known.whole, strict=True) if not whole]
        elif class_labels is not None or any(known.whole):
            nulls = [AV(True, True)]
    copies = 1 + len(nulls)

    # A modality's null prediction stands in the set that kept its stream; one known whole is its own (set 0).
    def set_of(kept: list[bool]) -> int:
        return 1 + kept.index(True) if True in kept else 0

    null_set = AV.zip(nulls).map(set_of)

    # Null rows see neither a class nor a modality that is known as a whole, and known slots only beside the
    # stream that they belong to.
    own_rows = torch.arange(copies * batch, device=device) < batch

    def in_all_rows(value: Tensor | None) -> Tensor | None:
        """(B,C,T',H',W') -> (copies * B,C,T',H',W')."""
        return None if value is None else torch.cat([value.to(dtype)] * copies)

    def told(value: Tensor | None, mask: Tensor | None, kept: list[bool]) -> Tensor | None:
        """Mask (B,T') -> what each row may read, (copies * B,T'); (copies * B,) without one; None: all."""
        if value is None or not nulls:
            return mask
        if mask is None:
            return own_rows
        return torch.cat([mask, *(mask if keeps else torch.zeros_like(mask) for keeps in kept)])

    present = known.values.map(in_all_rows)
    mask = known.values.map(told, known.mask, AV.zip(nulls))
    labels = class_labels
    if labels is not None and nulls:
        null_labels = torch.full_like(labels, generator.null_class)
        labels = torch.cat([labels, *[null_labels] * len(nulls)])

    def null_stream(x: Tensor, own_noise: Tensor, kept: bool) -> Tensor:
        """A modality's stream (B,C,T',H',W') in one set of null rows."""
        return x if kept else own_noise

    def denoise(sample: AV[Tensor], t: Tensor) -> AV[Tensor]:
        """AV((B,C,T',H',W')), t 0-d or (B,) -> the guided prediction, float32."""
        sets = AV.zip([sample, *(sample.map(null_stream, noise, kept) for kept in nulls)])
        inputs = sets.map(lambda streams: torch.cat(streams).to(dtype))
        times = t.to(device).expand(batch).repeat(copies)
        prediction = generator(inputs, times, present, mask, labels)
        predictions = prediction.map(lambda rows: rows.float().split(batch))
        null = AV(predictions.audio[null_set.audio], predictions.video[null_set.video])
        return guide(predictions.map(lambda rows: rows[0]), null, scale)

    return denoise

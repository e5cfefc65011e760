"""A model against its critic, in two turns of a step: what the model has made, the critic's turn judges.

real (B,...), fake (B,...) -> what the model pays, () -> hand-off -> the critic's hinge loss, (). Paper Eq. 2.
The job `autoencoder` plays with tuples of images, `vae` with patches of single ones, `vocoder`
with patches of spectrograms.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmldm.diffusion.schedules import NoiseProcess
from mmldm.models.discriminator import SpectrogramDiscriminator, TupleDiscriminator, tuples
from mmldm.models.image_codec import ImageCodec
from mmldm.training.losses import adversarial_loss, critic_loss
from mmldm.training.randomness import StepRandom
from mmldm.types import AV

MOST_BALANCE = 1e4
"""Largest factor of the critic's term: where it says nearly nothing, nothing is made of it."""


class Handoff(NamedTuple):
    """What the model turn leaves for the critic's.

    Attributes:
        real: What the critic is to score high (N,...).
        fake: Fakes of K kinds, one kind after the other (KN,...), without gradient.
        share: Of each score in the loss, of the scores' shape or one that broadcasts to it, (N,...); 0: there
            is nothing real.
    """

    real: Tensor
    fake: Tensor
    share: Tensor


class Adversary:
    """The frozen side that a model turn plays against: the critic, and what passes between the turns.

    Not a module on purpose: the model turn must not own the critic's parameters.

    Args:
        critic: Scores what a hand-off holds.
        start_step: First step with an adversarial term.
    """

    def __init__(self, critic: nn.Module, start_step: int) -> None:
        self.critic, self.start_step = critic, start_step
        self.handoff: dict[int, tuple[Handoff, ...]] = {}
        """Of each accumulated pass, by its index: one for each size of what is judged."""


class PatchAdversary(Adversary):
    """The patch critic's side of the model turn (Isola et al. 2017), in balance (Esser et al. 2021).

    VQGAN scales the term until its gradient at the decoder's last layer is as large as the other terms'.
    Here that is done at the images, one by one: an image depends on no other, and every VAE has them.
    """

    def model_loss(
        self,
        decoded: AV[Tensor],
        images: AV[Tensor],
        weights: AV[Tensor],
        share: AV[Tensor],
        emphasis: AV[float],
        closeness: Tensor,
        micro: int,
    ) -> tuple[Tensor, Tensor]:
        """What the decoder pays, in balance and as the critic asks it, () each; leaves a hand-off.

        Args:
            decoded: With gradient, AV (N,3,H,W), as `images`.
            weights: Of the pixels, AV (N,1,H,W): a patch counts as much as they do.
            share: Of each image in a mean over all, AV (N,).
            emphasis: Of a modality.
            closeness: The pixels' terms, (), whose gradients say how strong this one's are to be.
        """
        pull = AV(*torch.autograd.grad(closeness, tuple(decoded), retain_graph=True))

        def judged(fake: Tensor, real: Tensor, weights: Tensor, share: Tensor) -> tuple[Any, ...]:
            # Each score's share (N,1,h,w) of the whole loss, and what each image pays (N,).
            scores = self.critic(fake)
            patches = F.adaptive_avg_pool2d(weights, scores.shape[-2:])
            shares = patches / patches.sum((1, 2, 3), keepdim=True) * share[:, None, None, None]
            paid = (adversarial_loss(scores) * shares).sum((1, 2, 3))
            # Both as finely rounded: under autocast a fake has fewer bits, which a critic would see.
            return paid, Handoff(real.to(fake.dtype), fake.detach(), shares)

        paid, handoffs = zip(*decoded.map(judged, images, weights, share), strict=True)
        self.handoff[micro] = tuple(
            handoff._replace(share=factor * handoff.share)
            for handoff, factor in zip(handoffs, emphasis, strict=True)
        )
        terms = AV(*paid).map(balanced, decoded, pull).map(torch.mul, emphasis)
        return terms.audio + terms.video, torch.cat(paid).sum()


class SpectrogramAdversary(Adversary):
    """The spectrogram critic's side of the model turn: its hinges, and what its layers see of both sounds.

    Args:
        critic: Scores waveforms.
        start_step: First step with an adversarial term.
        feature_matching: Weight of the distance of what the critic's layers see, against its hinges.
    """

    critic: SpectrogramDiscriminator

    def __init__(
        self, critic: SpectrogramDiscriminator, start_step: int, feature_matching: float
    ) -> None:
        super().__init__(critic, start_step)
        self.feature_matching = feature_matching

    def model_loss(
        self, made: Tensor, real: Tensor, share: Tensor, closeness: Tensor, micro: int
    ) -> tuple[Tensor, Tensor]:
        """What the vocoder pays, in balance and as the critic asks it, () each; leaves a hand-off.

        Args:
            made: Waveforms (B,S), with gradient, as `real`.
            share: Of each sound in a mean over all, (B,).
            closeness: The other terms, (), whose gradients say how strong this one's are to be.
        """
        [pull] = torch.autograd.grad(closeness, made, retain_graph=True)
        seen = self.critic.maps(made)
        with torch.no_grad():
            wanted = self.critic.maps(real)

        # Every resolution counts alike, however many patches it has: shares (B,P) of the whole loss.
        scores = [maps[-1] for maps in seen]
        parts = [torch.full_like(s, 1 / (len(scores) * s.shape[1])) for s in scores]
        shares = torch.cat(parts, dim=1) * share[:, None]
        paid = (adversarial_loss(torch.cat(scores, dim=1)) * shares).sum(1)
        self.handoff[micro] = (Handoff(real, made.detach(), shares),)

        # Feature matching (Larsen et al. 2016), relative to how much the layer says of the real sound.
        if self.feature_matching:
            distances = [
                (ours - theirs).abs().flatten(1).mean(1)
                / theirs.abs().flatten(1).mean(1).clamp_min(1e-6)
                for resolution, target in zip(seen, wanted, strict=True)
                for ours, theirs in zip(resolution, target, strict=True)
            ]
            paid = paid + self.feature_matching * torch.stack(distances).mean(0) * share
        return balanced(paid, made, pull), paid.sum()


def balanced(paid: Tensor, fake: Tensor, pull: Tensor) -> Tensor:
    """What fakes pay, (N,), times how much weaker its gradient is than that of the other terms, summed: ().

    Args:
        fake: (N,...), with gradient, from which `paid` came.
        pull: Gradient of the other terms at the fakes, (N,...).
    """
    [push] = torch.autograd.grad(paid.sum(), fake, retain_graph=True)
    wanted, found = (gradient.flatten(1).norm(dim=1) for gradient in (pull, push))
    return (paid * (wanted / found.clamp_min(1e-12)).clamp_max(MOST_BALANCE)).sum()


class CriticTurn(nn.Module):
    """Hinge loss over what the model turn has left: the real ones against the fakes (Eq. 2)."""

    def __init__(self, adversary: Adversary) -> None:
        super().__init__()
        self.critic = adversary.critic
        self.handoff = adversary.handoff

    def forward(self, batch: Any, random: StepRandom) -> dict[str, Tensor]:
        """What the model turn has left of this batch -> "loss" and mean scores, each ()."""
        losses, real_means, fake_means = [], [], []
        for real, fake, share in self.handoff.pop(random.micro):
            # One call for all: fakes of every kind beside the real ones.
            scores = self.critic(torch.cat([real, fake]))
            real_scores, fake_scores = scores[: len(real)], scores[len(real) :]
            losses.append((critic_loss(real_scores, fake_scores) * share).sum())
            real_means.append(real_scores.mean().detach())
            fake_means.append(fake_scores.mean().detach())
        return {
            "loss": torch.stack(losses).sum(),
            "score/real": torch.stack(real_means).mean(),
            "score/fake": torch.stack(fake_means).mean(),
        }


class TupleAdversary(Adversary):
    """The frozen side the model turn plays against: critic, image decoder and what passes between the turns.

    Args:
        critic: Scores tuples (N,3,3,H,W).
        codec: Decodes estimates with gradient.
        start_step: First step with an adversarial term.
        max_noise: Only clips whose noise levels all lie below this fraction of the schedule count: an
            epsilon prediction says nothing about the image above it.
    """

    def __init__(
        self, critic: TupleDiscriminator, codec: ImageCodec, start_step: int, max_noise: float
    ) -> None:
        super().__init__(critic, start_step)
        self.codec, self.max_noise = codec, max_noise

    def images(self, latents: AV[Tensor]) -> Tensor:
        """Image latents AV (J,1,c,h,w), (J,F,c,h,w) -> images <audio, first, last> (J,3,3,H,W).

        An audio image of another size is resized to the frames'.
        """
        ends = torch.cat([latents.video[:, :1], latents.video[:, -1:]], dim=1)
        audio, frames = self.codec.decode(latents.audio, "audio"), self.codec.decode(ends, "video")
        if audio.shape[-2:] != frames.shape[-2:]:
            resized = F.interpolate(audio[:, 0], frames.shape[-2:], mode="bilinear", antialias=True)
            audio = resized[:, None]
        return torch.cat([audio, frames], dim=1)

    def model_loss(
        self,
        prediction: AV[Tensor],
        noisy: AV[Tensor],
        levels: AV[Tensor],
        target: AV[Tensor],
        process: NoiseProcess,
        micro: int,
        complete: Tensor,
    ) -> Tensor:
        """L_GAN of the autoencoder (Eq. 2), (); keeps real and fake images for the critic's turn.

        Only judged clips are decoded and scored: the others would count as zero. One is decoded at
        least, since the critic has to take part in every step.

        Args:
            prediction: Of the signal decoder, AV (B,1,c,h,w), (B,F,c,h,w), as `noisy` and `target`.
            levels: Timesteps AV (B,1), (B,F) on the CPU: the host has to know how many clips are
                judged.
            complete: (B,) bool, clips with both modalities; of others there is no real tuple.
        """
        device = complete.device

        # Which clips are judged, decided on the host: no noise level of their three images is high.
        ends = torch.cat([levels.audio, levels.video[:, :1], levels.video[:, -1:]], dim=1)
        judged = (ends < self.max_noise * process.num_timesteps).all(dim=1)
        chosen = judged.nonzero()[:, 0]
        if len(chosen) == 0:
            chosen = torch.zeros(1, dtype=torch.long)
        rows = chosen.to(device, non_blocking=True)

        # Their one-step estimates and the true image latents, both through the image decoder.
        def clean(predicted: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
            times = level[chosen].to(device, non_blocking=True)
            return process.to_x0(predicted[rows], noisy[rows], times)

        fake = self.images(prediction.map(clean, noisy, levels))
        with torch.no_grad():
            real = self.images(target.map(lambda x: x[rows]))

        # A mean over all rows, in which clips that are not judged, or not whole, count as zero.
        share = (complete & judged.to(device, non_blocking=True))[rows] / len(complete)
        judged_tuples = tuples(*real.unbind(1), *fake.detach().unbind(1))
        self.handoff[micro] = (Handoff(*judged_tuples, share),)
        return (adversarial_loss(self.critic(fake)) * share).sum()

"""The critic's side of the `autoencoder` job: one-step reconstructions, judged in tuples. Paper §3.1, Eq. 2.

noise prediction AV -> image estimates <audio image, frame i, frame j> -> scores of the tuple critic.
The model turn makes the reconstructions once and hands them over, so the critic turn repeats no forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmldm.diffusion.schedules import NoiseProcess
from mmldm.models.discriminator import TupleDiscriminator, tuples
from mmldm.models.image_codec import ImageCodec
from mmldm.training.losses import adversarial_loss, critic_loss
from mmldm.training.randomness import StepRandom
from mmldm.types import AV


class Adversary:
    """The frozen side the model turn plays against: critic, image decoder and what passes between the turns.

    Not a module on purpose: the model turn must not own the critic's parameters.

    Args:
        critic: Scores tuples (N, 3, 3, H, W).
        codec: Decodes estimates with gradient.
        start_step: First step with an adversarial term.
        max_noise: Only clips whose noise levels all lie below this fraction of the schedule count: an
            epsilon prediction says nothing about the image above it.
    """

    def __init__(
        self, critic: TupleDiscriminator, codec: ImageCodec, start_step: int, max_noise: float
    ) -> None:
        self.critic, self.codec = critic, codec
        self.start_step, self.max_noise = start_step, max_noise
        self.handoff: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def images(self, latents: AV[Tensor]) -> Tensor:
        """Image latents of the audio image and of F frames -> <audio, first, last> (B, 3, 3, H, W)."""
        ends = torch.cat([latents.video[:, :1], latents.video[:, -1:]], dim=1)
        return torch.cat(
            [self.codec.decode(latents.audio, "audio"), self.codec.decode(ends, "video")], dim=1
        )

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
        """The adversarial term of Eq. 3; keeps real and fake images for the critic's turn.

        Only judged clips are decoded and scored: the others would count as zero. One is decoded at
        least, since the critic has to take part in every step.

        Args:
            levels: Timesteps AV((B,1), (B,F)) on the CPU: the host has to know how many clips are
                judged.
            complete: (B,) bool, clips with both modalities; of others there is no real tuple.
        """
        count, device = len(complete), complete.device
        ends = torch.cat([levels.audio, levels.video[:, :1], levels.video[:, -1:]], dim=1)
        low = ends < self.max_noise * process.num_timesteps
        judged = low.all(dim=1)
        chosen = judged.nonzero()[:, 0]
        if len(chosen) == 0:
            chosen = torch.zeros(1, dtype=torch.long)
        rows = chosen.to(device, non_blocking=True)
        times = levels.map(lambda t: t[chosen].to(device, non_blocking=True))
        estimate = prediction.map(lambda p, x, t: process.to_x0(p[rows], x[rows], t), noisy, times)
        fake = self.images(estimate)
        with torch.no_grad():
            real = self.images(target.map(lambda x: x[rows]))
        share = (complete & judged.to(device, non_blocking=True))[rows] / count
        self.handoff[micro] = (real, fake.detach(), share)
        return (adversarial_loss(self.critic(fake)) * share).sum()


class CriticTurn(nn.Module):
    """Hinge loss over the real and the four fake tuples of every clip."""

    def __init__(self, adversary: Adversary) -> None:
        super().__init__()
        self.critic = adversary.critic
        self.handoff = adversary.handoff

    def forward(self, batch: dict[str, Tensor], random: StepRandom) -> dict[str, Tensor]:
        real, fake, share = self.handoff.pop(random.micro)
        real_tuples, fake_tuples = tuples(*real.unbind(1), *fake.unbind(1))
        scores = self.critic(torch.cat([real_tuples, fake_tuples]))
        real_scores, fake_scores = scores[: len(real)], scores[len(real) :]
        return {
            "loss": (critic_loss(real_scores, fake_scores) * share).sum(),
            "score/real": real_scores.mean().detach(),
            "score/fake": fake_scores.mean().detach(),
        }

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
        """Image latents of the audio image and two frames -> images (B, 3, 3, H, W)."""
        return torch.cat(
            [self.codec.decode(latents.audio, "audio"), self.codec.decode(latents.video, "video")],
            dim=1,
        )

    def model_loss(
        self,
        prediction: AV[Tensor],
        noisy: AV[Tensor],
        timesteps: AV[Tensor],
        target: AV[Tensor],
        process: NoiseProcess,
        micro: int,
        complete: Tensor,
    ) -> Tensor:
        """The adversarial term of Eq. 3; keeps real and fake images for the critic's turn.

        Args:
            complete: (B,) bool, clips with both modalities; of others there is no real tuple.
        """
        ends = torch.tensor([0, -1], device=target.video.device)
        estimate = prediction.map(process.to_x0, noisy, timesteps)
        fake = self.images(AV(estimate.audio, estimate.video[:, ends]))
        with torch.no_grad():
            real = self.images(AV(target.audio, target.video[:, ends]))
        levels = torch.cat([timesteps.audio, timesteps.video[:, ends]], dim=1)
        usable = complete & (levels < self.max_noise * process.num_timesteps).all(dim=1)
        self.handoff[micro] = (real, fake.detach(), usable)
        return (adversarial_loss(self.critic(fake)) * usable).mean()


class CriticTurn(nn.Module):
    """Hinge loss over the real and the four fake tuples of every clip."""

    def __init__(self, adversary: Adversary) -> None:
        super().__init__()
        self.critic = adversary.critic
        self.handoff = adversary.handoff

    def forward(self, batch: dict[str, Tensor], random: StepRandom) -> dict[str, Tensor]:
        real, fake, usable = self.handoff.pop(random.micro)
        real_tuples, fake_tuples = tuples(*real.unbind(1), *fake.unbind(1))
        scores = self.critic(torch.cat([real_tuples, fake_tuples]))
        real_scores, fake_scores = scores[: len(real)], scores[len(real) :]
        return {
            "loss": (critic_loss(real_scores, fake_scores) * usable).mean(),
            "score/real": real_scores.mean().detach(),
            "score/fake": fake_scores.mean().detach(),
        }

"""Loss terms as pure functions on tensors; each clip has its own value (B,) before the mean.

errors, embeddings, logits or scores (B,...) -> () or (B,). Paper §3.1: Eq. 1 is `contrastive_loss`, Eq. 2 is
`critic_loss` and `adversarial_loss` (as hinges, like the authors' release); Eq. 3 adds them up.
"""

from __future__ import annotations

import warnings

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from mmldm.types import AV

TEXTURE_SCALES = ((3, 8), (7, 16))
"""Of `texture_distance`: pixels that a blur is wide, and the places around which strengths are taken."""
FAINTEST = 1e-4
"""Power of details, of images in [-1,1], below which differences fade: a level and a quarter of 8 bits."""


def salience(x: Tensor, strength: float, threshold: float) -> Tensor:
    """Weights that count what moves or sounds more than the background.

    A cell is salient where it departs from the median along time by more than `threshold` (root mean square
    over channels). Time is the frame axis; for a one-frame audio image it is the width axis.

    Args:
        x: Images or image latents (B, F, C, H, W).
        strength: Extra weight of salient cells; 0 gives plain averages.
        threshold: In the units of `x`.

    Returns:
        Weights (B, F, 1, H, W), 1 on the background and 1 + strength where salient.
    """
    # The median is what stands still: the background of a scene, a steady tone of a sound.
    time_axis = 1 if x.shape[1] > 1 else 4
    background = x.median(dim=time_axis, keepdim=True).values
    departure = (x - background).square().mean(2, keepdim=True).sqrt()
    return 1 + strength * (departure > threshold).to(x.dtype)


def weighted_mean(errors: Tensor, weights: Tensor) -> Tensor:
    """Mean of `errors` (B, ...) under broadcastable `weights`, per sample -> (B,)."""
    weights = weights.expand_as(errors).flatten(1)
    return (errors.flatten(1) * weights).sum(1) / weights.sum(1)


def texture_distance(fake: Tensor, real: Tensor) -> Tensor:
    """How far the strengths of the details of two images (N,3,H,W) are apart, place by place: (N,).

    What a decoder cannot know it leaves out, if single pixels are all that counts, and a wall is smooth. Here
    details count by their strength alone, so that any of the right strength will do. Strengths are root mean
    squares around each place of what two blurs take away; the whole of an image that is smaller.
    """
    distance = fake.new_zeros(len(fake))
    for blur, largest in TEXTURE_SCALES:
        reach = min(largest, *real.shape[2:])
        strengths = []
        for images in (fake, real):
            smooth = F.avg_pool2d(images, blur, 1, blur // 2, count_include_pad=False)
            power = (images - smooth).square().mean(1, keepdim=True)
            strengths.append((F.avg_pool2d(power, reach, max(1, reach // 2)) + FAINTEST).sqrt())
        distance = distance + (strengths[0] - strengths[1]).abs().mean((1, 2, 3))
    return distance


def loss_and_errors(loss: Tensor, errors: AV[Tensor]) -> dict[str, Tensor]:
    """What a turn of two errors returns: the loss () and, for the log, both errors AV ()."""
    return {
        "loss": loss,
        "mse/audio": errors.audio.detach(),
        "mse/video": errors.video.detach(),
    }


def gather_rows(x: Tensor) -> Tensor:
    """Rows (B,...) of every process in rank order (world * B,...), with gradient; alone, `x` itself."""
    if not (dist.is_available() and dist.is_initialized()):
        return x
    # As for DistributedDataParallel: the new name is not in torch 2.10.
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        return torch.cat(all_gather(x.contiguous()))


def contrastive_loss(embeddings: AV[Tensor], temperatures: AV[Tensor], complete: Tensor) -> Tensor:
    """Matched pairs against all others of the global batch, both directions (Eq. 1, mean over the batch).

    Args:
        embeddings: L2-normalised, AV (B,E).
        temperatures: Divisors of the similarity, AV (): audio-to-video, video-to-audio. Eq. 1 prints a
            factor.
        complete: (B,) bool; a clip that lacks a modality is no pair, and no other's counterexample.

    Returns:
        The loss, ().
    """
    # The own clips' rows among those of all processes: there lie their counterparts.
    rows = len(embeddings.audio)
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    targets = torch.arange(rows, device=embeddings.audio.device) + rank * rows
    everyone = embeddings.map(gather_rows)

    # Incomplete clips are hidden from the others. A clip's own counterpart stays in its row, so that no row
    # is without any.
    known = gather_rows(complete.float()) > 0
    hidden = ~known & (torch.arange(len(known), device=known.device) != targets[:, None])

    # Both directions: who among all pictures belongs to this sound, and the other way round.
    loss = embeddings.audio.new_zeros(())
    for own, others, temperature in (
        (embeddings.audio, everyone.video, temperatures.audio),
        (embeddings.video, everyone.audio, temperatures.video),
    ):
        logits = (own @ others.T / temperature).masked_fill(hidden, -torch.inf)
        loss = loss + (F.cross_entropy(logits, targets, reduction="none") * complete).mean()
    return 0.5 * loss


def classification_loss(logits: Tensor, class_labels: Tensor) -> Tensor:
    """Cross-entropy () of logits (B,K), as a mean over all rows.

    Args:
        class_labels: (B,) long; a clip without a class, which is a negative number, counts as zero.
    """
    known = class_labels >= 0
    return (F.cross_entropy(logits, class_labels.clamp_min(0), reduction="none") * known).mean()


def critic_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Hinge loss of the critic: something real against the mean of K kinds of fakes (Eq. 2: four).

    The release averages all five alike. A critic that says -1 of everything then has a loss of 0.4
    and nothing to learn from, which is where training ends up.

    Args:
        real_scores: (B,...); more than one score each where patches are judged.
        fake_scores: (KB,...), one kind after the other.

    Returns:
        (B,...).
    """
    fake = F.relu(1 + fake_scores).view(-1, *real_scores.shape).mean(0)
    return 0.5 * (F.relu(1 - real_scores) + fake)


def adversarial_loss(fake_scores: Tensor) -> Tensor:
    """What a model pays for each fake that the critic recognises (Eq. 2, hinge), (B,...) as the scores."""
    return F.relu(1 - fake_scores)

"""Given media become the autoencoder's latents, one modality at a time or both."""

import torch

from mmldm.types import AV


def test_each_modality_is_encoded_alone_as_together(pipeline, waveforms, frames):
    both = pipeline.encode(AV(waveforms, frames))
    audio, video = pipeline.encode(AV(waveforms, None)), pipeline.encode(AV(None, frames))
    assert audio.video is None
    assert video.audio is None
    assert torch.equal(both.audio, audio.audio)
    assert torch.equal(both.video, video.video)
    assert both.map(lambda z: tuple(z.shape[1:])) == pipeline.generator.latent_shapes


def test_each_clip_is_encoded_by_itself(pipeline, waveforms, frames):
    both = pipeline.encode(AV(waveforms, frames))
    alone = pipeline.encode(AV(waveforms[1:], frames[1:]))
    for together, single in zip(both, alone, strict=True):
        assert torch.allclose(together[1], single[0], atol=1e-5)
        assert not torch.allclose(together[0], single[0], atol=1e-3)

"""Which precision is taken where, and what stays in float32 whatever is taken."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mmldm.errors import UserError
from mmldm.media.spectrogram import AudioImage
from mmldm.models.vocoder import FourierVocoder
from mmldm.pipelines import precision as precisions
from mmldm.pipelines.precision import (
    Precision,
    allow_tf32,
    choose_precision,
    repeated_precision,
    sample_in,
    used_in,
)
from mmldm.pipelines.sounding_video import SoundingVideoPipeline

from .conftest import SPEC, build_pipeline

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture
def multiplies(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """A GPU that multiplies bfloat16, or does not."""

    def gpu(can: bool) -> None:
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: can)

    return gpu


def test_the_device_chooses(multiplies: Callable[[bool], None]) -> None:
    multiplies(True)
    assert [choose_precision(None, d) for d in (CPU, MPS, CUDA)] == ["fp32", "fp32", "bf16"]
    multiplies(False)
    assert choose_precision(None, CUDA) == "fp32"


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_what_is_asked_for_is_taken_on_every_device(name: Precision) -> None:
    assert [choose_precision(name, device) for device in (CPU, MPS)] == [name] * 2


def test_tf32_is_of_gpus_that_have_it(multiplies: Callable[[bool], None]) -> None:
    multiplies(True)
    assert choose_precision("tf32", CUDA) == "tf32"
    with pytest.raises(
        UserError, match="tf32 is of NVIDIA GPUs from 2020 on, and this device is cpu"
    ):
        choose_precision("tf32", CPU)
    multiplies(False)
    with pytest.raises(UserError, match="this device is cuda"):
        choose_precision("tf32", CUDA)


def test_a_clip_is_made_again_in_its_own_precision_where_the_device_has_it(
    multiplies: Callable[[bool], None],
) -> None:
    multiplies(True)
    assert repeated_precision("fp32", CUDA) == "fp32", "not the device's own choice"
    assert repeated_precision("bf16", CPU) == "bf16"
    assert repeated_precision("tf32", CPU) == "fp32"


def test_tf32_lets_float32_matrices_be_multiplied_so() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        allow_tf32()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def vocoded() -> SoundingVideoPipeline:
    pipeline = build_pipeline()
    torch.manual_seed(0)
    spectrogram = SPEC.spectrogram.model_dump(mode="json")
    vocoder = FourierVocoder(spectrogram=spectrogram, sample_rate=SPEC.filterbank_rate, width=8)
    pipeline.register_modules(vocoder=vocoder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_networks_are_cast_and_sound_and_statistics_are_not() -> None:
    pipeline, untouched = vocoded(), vocoded()
    sample_in(pipeline, "bf16")
    for name in ("vae", "autoencoder", "generator"):
        weights = getattr(pipeline, name).parameters()
        assert {weight.dtype for weight in weights} == {torch.bfloat16}, name
    assert {weight.dtype for weight in pipeline.vocoder.parameters()} == {torch.float32}
    # Latents go between networks by the very numbers that the training had.
    latents = pipeline.generator.latent_shapes.map(lambda shape: torch.randn(2, *shape))
    ours, theirs = (p.generator.denormalise(latents) for p in (pipeline, untouched))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_float32_changes_nothing() -> None:
    pipeline = vocoded()
    before = {k: v.clone() for k, v in pipeline.generator.state_dict().items()}
    sample_in(pipeline, "fp32")
    assert all(torch.equal(before[k], v) for k, v in pipeline.generator.state_dict().items())


def test_clips_in_bfloat16_are_close_to_those_in_float32() -> None:
    pipeline = vocoded()
    exact = pipeline(num_samples=2, seed=0, num_inference_steps=2)
    sample_in(pipeline, "bf16")
    rounded = pipeline(num_samples=2, seed=0, num_inference_steps=2)
    for exactly, roughly in zip(exact.latents, rounded.latents, strict=True):
        assert roughly.dtype == torch.float32 and not torch.equal(exactly, roughly)
        assert (exactly - roughly).abs().mean() < 0.03 * exactly.std()
    for one, other in zip(exact.clips, rounded.clips, strict=True):
        assert other.waveform.dtype == torch.float32 and other.waveform.isfinite().all()
        assert (one.frames.int() - other.frames.int()).abs().float().mean() < 3


class Leaving(TorchFunctionMode):
    """Notes the tensors that are fetched from a device."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.cpu, Tensor.numpy, Tensor.tolist):
            self.fetched.append(args[0])
        return func(*args, **(kwargs or {}))


def test_only_frames_and_sound_leave_the_device_while_clips_are_made() -> None:
    pipeline = vocoded()
    with Leaving() as leaving:
        made = list(pipeline.pieces(2, seconds=2 * SPEC.duration, seed=0, num_inference_steps=2))
    assert made
    whole = [tensor for tensor in leaving.fetched if tensor.numel() > 64]
    assert {(tensor.dtype, tensor.ndim) for tensor in whole} == {
        (torch.uint8, 5), (torch.float32, 2)
    }, "latents have five dimensions and float32"  # fmt: skip


@pytest.fixture
def cpu_counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a GPU: networks that are only used follow their job."""
    monkeypatch.setattr(precisions, "WITHOUT_GRADIENTS", ("cpu",))
    yield


def product(precision: Precision) -> torch.dtype:
    with used_in(precision, CPU):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


def test_networks_that_a_job_uses_follow_it(cpu_counts: None) -> None:
    assert product("bf16") == torch.bfloat16
    assert product("fp32") == torch.float32


def test_on_a_cpu_they_stay_in_float32() -> None:
    assert product("bf16") == torch.float32


def test_spectrograms_and_sounds_stay_in_float32_within(cpu_counts: None) -> None:
    audio_image = AudioImage(SPEC)
    waveform = torch.rand(1, SPEC.num_samples, generator=torch.Generator().manual_seed(0)) - 0.5
    image = audio_image.image(waveform)
    sound = audio_image.waveform(image, 2)
    with used_in("bf16", CPU):
        assert torch.equal(audio_image.image(waveform), image)
        assert torch.equal(audio_image.waveform(image, 2), sound)

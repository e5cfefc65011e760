"""What sampling and training may cost at the paper's size, and what may happen only once.

Networks are counted on tensors without memory, evaluations on tiny real parts. Budgets are those of the
published networks: a generator step 301.0 GF, a decoder step 17 x 180.4 GF, image decoding 17 x 622.2 GF
(35.3 GF with TAESD's size), and 472 GF once for the conditions (docs/fidelity.md).
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from mmldm.benchmark.rows import row_costs
from mmldm.benchmark.sampling import CLASSES
from mmldm.benchmark.training_step import RandomCache
from mmldm.config import RunConfig, load_config, parse
from mmldm.diffusion.schedules import NoiseProcess, ScheduleConfig
from mmldm.models.discriminator import TupleDiscriminator
from mmldm.models.generator import JointGenerator
from mmldm.models.image_codec import ImageCodec, LatentStatistics
from mmldm.models.image_vae import TinyImageAutoencoder, sd_image_vae
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.adversary import CriticTurn, TupleAdversary
from mmldm.training.flops import count_flops
from mmldm.training.jobs.autoencoder import AutoencoderTurn
from mmldm.training.jobs.generator import GeneratorTurn, generator_arguments
from mmldm.training.randomness import StepRandom
from mmldm.training.summary import Summary, summarise, untrained_autoencoder
from mmldm.types import AV

pytestmark = pytest.mark.slow

IMAGES = 17
"""Of a clip: the audio image and 16 frames."""
TINY_DECODER = 35.3
"""GF an image of a decoder of TAESD's size at 256²."""


@pytest.fixture(scope="module")
def landscape() -> RunConfig:
    return load_config("landscape")


@pytest.fixture(scope="module")
def paper(landscape: RunConfig) -> Summary:
    return summarise(landscape, len(CLASSES))


@pytest.fixture(scope="module")
def passes(paper: Summary) -> dict[str, float]:
    """TFLOP of each pass over one clip."""
    return {part.name: part.flops / 1e12 for part in paper.parts}


@pytest.mark.parametrize(
    ("protocol", "generator_steps", "decoder_steps", "budget"),
    [
        ("the paper's steps, no guidance", 50, 50, 179.4),
        ("P2", 20, 20, 78.4),
        ("P3", 20, 8, 41.6),
        ("P4", 20, 4, 29.3),
        ("P5", 20, 2, 23.2),
        ("P6", 20, 1, 20.1),
    ],
)
def test_flops_of_a_clip(
    protocol: str, generator_steps: int, decoder_steps: int, budget: float, passes: dict[str, float]
) -> None:
    total = (
        generator_steps * passes["generator, one step"]
        + passes["autoencoder, condition"]
        + decoder_steps * passes["signal decoder, one step"]
        + passes["image VAE, decode"]
    )
    assert total == pytest.approx(budget, rel=0.005)


@pytest.mark.parametrize(("generator_steps", "budget"), [(10, 7.15), (4, 5.34)])
def test_flops_of_a_clip_with_a_light_image_decoder(
    generator_steps: int, budget: float, passes: dict[str, float]
) -> None:
    """P7 and P8: one decoder step, and a distilled image decoder."""
    with FakeTensorMode():
        tiny = TinyImageAutoencoder(latent_channels=4)
        decoding, _ = count_flops(lambda: tiny.decode(torch.empty(1, 4, 32, 32)))
    assert decoding / 1e9 == pytest.approx(TINY_DECODER, rel=0.005)
    total = (
        generator_steps * passes["generator, one step"]
        + passes["autoencoder, condition"]
        + passes["signal decoder, one step"]
        + IMAGES * decoding / 1e12
    )
    assert total == pytest.approx(budget, rel=0.005)


def test_the_default_row_of_the_published_model_costs_at_most_8_tflop(landscape: RunConfig) -> None:
    costs = row_costs(landscape)
    assert costs["paper"].tflop == pytest.approx(179.4, rel=0.005)
    assert (costs["fast"].generator_steps, costs["fast"].decoder_steps) == (4, 1)
    assert costs["fast"].tflop < 8
    assert costs["fast"].tflop < costs["balanced"].tflop < costs["best"].tflop < 20


@contextmanager
def counting(pipeline: SoundingVideoPipeline) -> Iterator[Counter[str]]:
    """Calls of each part while the context lasts, and images that the image VAE sees."""
    autoencoder, calls = pipeline.autoencoder, Counter[str]()
    parts: dict[str, nn.Module] = {
        "generator": pipeline.generator,
        "decoder": autoencoder.decoder,
        "classifier": autoencoder.classifier,
    }
    for name in ("encoders", "projectors", "adapters"):
        parts |= {f"{name}/{m}": x for m, x in getattr(autoencoder, name).av._asdict().items()}
    hooks = [
        part.register_forward_hook(lambda *_, name=name: calls.update([name]))
        for name, part in parts.items()
    ]

    def images(name: str, inputs: tuple[torch.Tensor, ...]) -> None:
        calls[name] += len(inputs[0])

    hooks += [
        part.register_forward_pre_hook(lambda _, inputs, name=name: images(name, inputs))
        for name, part in (
            ("images encoded", pipeline.vae.encoder),
            ("images decoded", pipeline.vae.decoder),
        )
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "unipc"])
@pytest.mark.parametrize(("steps", "decoder_steps"), [(20, 8), (20, 1), (10, 1), (4, 1)])
def test_evaluations_are_the_steps_asked_for(
    scheduler: str, steps: int, decoder_steps: int, pipeline: SoundingVideoPipeline
) -> None:
    with counting(pipeline) as calls:
        pipeline(
            num_samples=2,
            seed=0,
            scheduler=scheduler,
            num_inference_steps=steps,
            decoder_steps=decoder_steps,
        )
    assert (calls["generator"], calls["decoder"]) == (steps, decoder_steps)


def test_joint_sampling_does_once_what_can_be_done_once(pipeline: SoundingVideoPipeline) -> None:
    """Conditions once a clip, one decode an image, and nothing is reconstructed beforehand."""
    with counting(pipeline) as calls:
        pipeline(num_samples=3, seed=0, num_inference_steps=5, decoder_steps=4)
    once = ("projectors/audio", "projectors/video", "adapters/audio", "adapters/video")
    assert {calls[name] for name in (*once, "classifier")} == {1}
    images = 1 + pipeline.clip_spec.num_frames
    assert calls["images decoded"] == 3 * images
    for never in ("images encoded", "encoders/audio", "encoders/video"):
        assert calls[never] == 0


@pytest.mark.parametrize("given", ["audio", "frames"])
def test_given_modality_is_encoded_once_and_the_other_never(
    given: str, pipeline: SoundingVideoPipeline
) -> None:
    spec = pipeline.clip_spec
    frames = torch.randint(0, 256, (spec.num_frames, 3, spec.height, spec.width))
    media = AV(torch.rand(spec.num_samples), frames.to(torch.uint8))
    row = AV("audio", "frames").index(given)
    with counting(pipeline) as calls:
        pipeline(num_samples=2, seed=0, num_inference_steps=5, **{given: media[row]})
    assert calls["images encoded"] == (1, spec.num_frames)[row]
    assert (calls["encoders/audio"], calls["encoders/video"]) == ((1, 0), (0, 1))[row]


class Operations(TorchDispatchMode):
    """Counts what would be launched on a device; views launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.namespace == "aten" and not func.is_view
        return func(*args, **(kwargs or {}))


def test_operations_of_one_evaluation(landscape: RunConfig) -> None:
    """Few large kernels: at batch 1 and 2 a GPU waits for launches."""
    with FakeTensorMode(), torch.no_grad():
        autoencoder = untrained_autoencoder(landscape, AV((4, 32, 32), (4, 32, 32)), len(CLASSES))
        generator = JointGenerator()
        z = AV(*(torch.empty(1, *shape) for shape in generator.latent_shapes))
        x = AV(torch.empty(1, 1, 4, 32, 32), torch.empty(1, 16, 4, 32, 32))
        t = x.map(lambda images: torch.zeros(images.shape[:2], dtype=torch.long))
        conditions = autoencoder.condition(z, torch.arange(16)[None])
        # What belongs to a clip is put together at its first evaluation.
        autoencoder.denoise(x, t, conditions)
        with Operations() as generating:
            generator(z, torch.zeros(1, dtype=torch.long))
        with Operations() as decoding:
            autoencoder.denoise(x, t, conditions)
    assert generating.count <= 603
    assert decoding.count <= 839


def test_training_flops_of_a_generator_row(landscape: RunConfig, paper: Summary) -> None:
    """Latents are cached: three forward passes' worth, and no encoder."""
    shapes = paper.spaces["latents"]
    process = NoiseProcess(parse(ScheduleConfig, landscape.generator.schedule, "schedule"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        generator = JointGenerator(**generator_arguments(landscape, shapes, None, 0))
        with unset_fake_temporarily():
            turn = GeneratorTurn(generator, process, landscape.generator)
        batch = RandomCache(shapes, channel_axis=0)[torch.arange(1)]
        random = StepRandom(0, 0, "model", 1)
        flops, _ = count_flops(lambda: turn(batch, random)["loss"].backward())
    assert flops / 1e12 == pytest.approx(0.903, rel=0.005)


def test_training_flops_of_an_autoencoder_row(landscape: RunConfig, paper: Summary) -> None:
    """Image latents are cached; the critic judges what the model's turn made, where it counts."""
    job = landscape.autoencoder
    assert job.critic is not None
    process = NoiseProcess(parse(ScheduleConfig, job.schedule, "schedule"))
    with FakeTensorMode():
        autoencoder = untrained_autoencoder(landscape, AV((4, 32, 32), (4, 32, 32)), len(CLASSES))
        fake_process = NoiseProcess(process.config)
        batch = RandomCache(paper.spaces["image latents"], channel_axis=1)[torch.arange(1)]
        codec = ImageCodec(sd_image_vae().requires_grad_(False), LatentStatistics.scalar(1.0, 4))
        turn = AutoencoderTurn(autoencoder, fake_process, job, codec, None)
        random = StepRandom(0, 0, "model", 1)
        count, _ = count_flops(lambda: turn(batch, random)["loss"].backward())
        alone = count / 1e12

    # On meta tensors: the levels are the host's, and real.
    with torch.device("meta"):
        codec = ImageCodec(sd_image_vae().requires_grad_(False), LatentStatistics.scalar(1.0, 4))
        critic = TupleDiscriminator(**job.critic.model)
        images = AV(torch.empty(1, 1, 4, 32, 32), torch.empty(1, 2, 4, 32, 32))
    adversary = TupleAdversary(critic, codec.to("meta"), 0, job.critic.max_noise)
    levels = images.map(lambda x: torch.zeros(x.shape[:2], dtype=torch.long))
    prediction = images.map(lambda x: torch.empty_like(x, requires_grad=True))
    complete = torch.ones(1, dtype=torch.bool, device="meta")

    def both_turns() -> None:
        critic.requires_grad_(False)
        adversary.model_loss(
            prediction, images, levels, images, process.to("meta"), 0, complete
        ).backward()
        critic.requires_grad_(True)
        CriticTurn(adversary)({}, StepRandom(0, 0, "critic", 1))["loss"].backward()

    judging = count_flops(both_turns)[0] / 1e12
    assert alone <= 2.27
    assert alone + judging <= 8.35
    # Three noise levels have to be low; a pass decodes one clip where none is.
    rows = job.train.batch_size // job.train.accumulate
    low = ((1 - job.loss.terminal_fraction) * job.critic.max_noise) ** 3
    judged = (rows * low + (1 - low) ** rows) / rows
    assert alone + judged * judging <= 2.9

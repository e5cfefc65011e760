"""Clips that lack sound or picture train what they have; what they lack is nowhere to be felt."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from mmldm.config import RunConfig
from mmldm.data.clips import WindowDataset
from mmldm.data.latents import Splits
from mmldm.data.manifest import Manifest
from mmldm.data.scan import scan
from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.media.reader import read_audio, read_clip
from mmldm.models.image_vae import load_image_vae
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.sections import KnownSlotsConfig
from mmldm.training import JOBS
from mmldm.training.jobs.autoencoder import AutoencoderStage, AutoencoderTurn
from mmldm.training.jobs.generator import GeneratorStage, GeneratorTurn
from mmldm.training.jobs.vae import VaeStage
from mmldm.training.known_slots import SlotPatterns
from mmldm.training.randomness import StepRandom
from mmldm.training.run import Run
from mmldm.training.run_clips import find_manifest
from mmldm.types import AV, Latents, WindowBatch

from ..remux import without
from ..smallest import CLIP, smallest_recipe
from .conftest import new_run

pytestmark = pytest.mark.slow

ROWS = 4
PRESENT = torch.tensor([[True, True], [True, False], [False, True], [True, True]])
LACKING = AV(audio=2, video=1)
"""Modality -> the row without it."""
CPU = torch.device("cpu")


@pytest.fixture
def autoencoder_turn(finished: Run) -> nn.Module:
    """At a step with the critic's term; the class of one clip is not known."""
    config = smallest_recipe()
    vae = load_image_vae(finished.folder.export("vae"))
    caches = Splits.open(finished.folder.cache("image_latents"))
    return unsettled(AutoencoderStage(config, vae, caches, CPU).turns["model"])


@pytest.fixture
def generator_turn(finished: Run) -> nn.Module:
    pipeline = SoundingVideoPipeline.from_pretrained(finished.folder.model)
    caches = Splits.open(finished.folder.cache("latents"))
    return unsettled(GeneratorStage(smallest_recipe(), pipeline, caches, CPU).turns["model"])


def unsettled(turn: nn.Module) -> nn.Module:
    """Away from the zeros of a fresh network, which would hide what they multiply."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in turn.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return turn


def cached_batch(finished: Run, cache: str) -> Latents:
    batch = Splits.open(finished.folder.cache(cache)).train[torch.arange(ROWS)]
    batch.class_labels[LACKING.video] = -1
    return batch._replace(present=present(PRESENT))


def present(mask: Tensor) -> AV[Tensor]:
    """Rows (B,2) -> AV (B,)."""
    return AV(*mask.unbind(1))


def with_inputs(batch: Latents) -> Latents:
    """The same batch, with gradients wanted for what it holds."""
    mean, logvar = (pair.map(lambda x: x.clone().requires_grad_()) for pair in batch[:2])
    return batch._replace(mean=mean, logvar=logvar)


def play(turn: nn.Module, batch: Latents | WindowBatch) -> tuple[Tensor, list[Tensor]]:
    """Loss and the gradient of every weight."""
    turn.zero_grad()
    loss = turn(batch, StepRandom(0, 5, "model", ROWS))["loss"]
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in turn.parameters() if p.grad is not None]


def assert_blind(turn: nn.Module, batch: Latents) -> None:
    """Gradients of what is missing are zero, of what is there not, and its content changes nothing."""
    batch = with_inputs(batch)
    loss, weights = play(turn, batch)

    def changed(value: Tensor, row: int) -> Tensor:
        other = value.detach().clone()
        other[row] = torch.randn(other[row].shape)
        return other

    for name in ("mean", "logvar"):
        for value, row in zip(getattr(batch, name), LACKING, strict=True):
            gradient = value.grad
            if gradient is not None:
                assert torch.equal(gradient[row], torch.zeros_like(gradient[row])), name
                assert all(gradient[i].abs().sum() > 0 for i in range(ROWS) if i != row), name
    other = batch._replace(
        mean=batch.mean.map(changed, LACKING), logvar=batch.logvar.map(changed, LACKING)
    )
    changed_loss, changed_weights = play(turn, other)
    assert torch.equal(loss, changed_loss)
    assert all(torch.equal(a, b) for a, b in zip(weights, changed_weights, strict=True))


def test_autoencoder_is_blind_to_what_a_clip_lacks(
    finished: Run, autoencoder_turn: AutoencoderTurn
) -> None:
    assert_blind(autoencoder_turn, cached_batch(finished, "image_latents"))


def test_autoencoder_whose_heads_shape_the_latents_is_blind_too(
    finished: Run, autoencoder_turn: AutoencoderTurn
) -> None:
    autoencoder_turn.autoencoder.register_to_config(detach_latents=False)
    assert_blind(autoencoder_turn, cached_batch(finished, "image_latents"))


def test_complete_clips_learn_the_same_beside_incomplete_ones(
    finished: Run, autoencoder_turn: AutoencoderTurn
) -> None:
    """Without the contrastive term, in which other clips are counterexamples."""
    loss = autoencoder_turn.config.loss.model_copy(update={"contrastive": 0.0})
    autoencoder_turn.config = autoencoder_turn.config.model_copy(update={"loss": loss})
    mixed = cached_batch(finished, "image_latents")
    gradients = []
    for mask in (PRESENT, torch.ones_like(PRESENT)):
        batch = with_inputs(mixed._replace(present=present(mask)))
        play(autoencoder_turn, batch)
        gradients.append(batch.mean.video.grad[[0, 3]])
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-8)


def test_generator_is_blind_to_what_a_clip_lacks(
    finished: Run, generator_turn: GeneratorTurn
) -> None:
    # Only means are used, so a log-variance has no gradient at all.
    assert_blind(generator_turn, cached_batch(finished, "latents"))


def test_generator_that_knows_slots_is_blind_too(
    finished: Run, generator_turn: GeneratorTurn
) -> None:
    shapes = generator_turn.generator.latent_shapes
    generator_turn.patterns = SlotPatterns(KnownSlotsConfig(share=1.0), shapes)
    assert_blind(generator_turn, cached_batch(finished, "latents"))


def test_generator_that_never_predicts_sound_survives_a_clip_of_sound_alone(
    finished: Run, generator_turn: GeneratorTurn
) -> None:
    generator_turn.predicted_share = generator_turn.predicted_share._replace(audio=0.0)
    loss, _ = play(generator_turn, cached_batch(finished, "latents"))
    assert loss < 100


def test_image_vae_is_blind_to_what_a_clip_lacks(manifest: Manifest) -> None:
    config = smallest_recipe()
    turn = VaeStage(config, manifest, CPU).turns["model"]
    dataset = WindowDataset(manifest, CLIP, "train", 0)
    items: list[Any] = [dataset[(0, i)] for i in range(ROWS)]
    batch = default_collate(items)._replace(present=present(PRESENT))
    loss, weights = play(turn, batch)
    batch.frames[LACKING.video] = 255
    batch.waveforms[LACKING.audio] = torch.randn(CLIP.num_samples)
    again, same = play(turn, batch)
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))


@pytest.fixture(scope="module")
def mixed_folder(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight whole clips, one without sound, one without picture, and a sound file."""
    root = tmp_path_factory.mktemp("mixed") / "clips"
    for number, file in enumerate(sorted(clip_folder.rglob("*.mp4"))[:11]):
        target = root / file.relative_to(clip_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if number < 8:
            target.write_bytes(file.read_bytes())
        elif number < 10:
            without(("audio", "video")[number - 8], file, target)
        else:
            clip: Clip = read_clip(file, 0.0, CLIP)
            clip.save(target.with_suffix(".wav"))
    return root


def mixed_recipe() -> RunConfig:
    base = smallest_recipe(steps=3).model_dump(mode="json")
    base["data"].update(allow_missing=True, held_out=0.25)
    return RunConfig.model_validate(base)


def test_mixed_folder_trains_from_end_to_end(mixed_folder: Path, tmp_path: Path) -> None:
    config = mixed_recipe()
    run = new_run(config, scan(mixed_folder, CLIP, workers=1), tmp_path)
    run.manifest = find_manifest(run.folder, str(mixed_folder), config, run.progress)
    assert len(run.manifest.usable) == 11
    for job in JOBS:
        run.run(job)
    for name in ("image_latents", "latents"):
        caches = Splits.open(run.folder.cache(name))
        here = torch.stack(caches.train[torch.arange(len(caches.train))].present, dim=1)
        assert sorted(here.tolist()).count([True, False]) == 2
        assert here.tolist().count([False, True]) == 1
        assert caches.held_out[torch.arange(len(caches.held_out))].complete.all()
    assert SoundingVideoPipeline.from_pretrained(run.folder.model) is not None


def test_statistics_count_only_what_is_there(mixed_folder: Path, tmp_path: Path) -> None:
    config = mixed_recipe()
    run = new_run(config, scan(mixed_folder, CLIP, workers=1, allow_missing=True), tmp_path)
    run.run("vae")
    cache = run.image_latents().train
    rows = cache[torch.arange(len(cache))]
    for modality, here, x in zip(("audio", "video"), rows.present, rows.mean, strict=True):
        mean = x[here].mean((0, 1, 3, 4))
        assert torch.tensor(cache.extra["statistics"][modality]["mean"]).allclose(mean, atol=1e-3)


def test_vocoder_reads_the_sound_of_every_file_that_has_one(mixed_folder: Path) -> None:
    found = scan(mixed_folder, CLIP, workers=1, held_out=0.25, allow_missing=True)
    windows = WindowDataset(found, CLIP, "train", seed=0, sound_only=True)
    rows = [row for row in found.split("train") if row.has_audio]
    assert len(windows) == len(rows) == len(found.split("train")) - 1
    for i, row in enumerate(rows):
        item = windows[(0, i)]
        assert isinstance(item, WindowBatch) and len(item.frames) == 0
        assert torch.equal(item.waveforms, read_audio(found.file(row), CLIP, windows.start(0, i)))


def test_folder_without_a_whole_clip_is_refused(mixed_folder: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone"
    lone.mkdir()
    sound = next(mixed_folder.rglob("*.wav"))
    (lone / sound.name).write_bytes(sound.read_bytes())
    run = new_run(mixed_recipe(), Manifest(root=lone, entries=()), tmp_path / "run")
    with pytest.raises(UserError, match="no clip with both sound and picture is left"):
        find_manifest(run.folder, str(lone), run.config, run.progress)

"""The `vocoder` job on real clips: it learns, its model joins the pipeline, and old runs get one later."""

from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from mmldm.config import RunConfig, save_config
from mmldm.data.clips import WindowDataset
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.models.autoencoder import load_autoencoder
from mmldm.models.image_vae import load_image_vae
from mmldm.models.vocoder import FourierVocoder
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.training.jobs.vocoder import VocoderStage, VocoderTurn, build_vocoder
from mmldm.training.randomness import StepRandom
from mmldm.training.report import METRICS, read_metrics
from mmldm.training.run import Run, jobs_of
from mmldm.types import AV, WindowBatch

from ...cli.commandline import mmldm
from ...smallest import CLIP, smallest_recipe
from ...sound_files import write_sound
from ..conftest import new_run

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CRITIC = {"start_step": 2, "learning_rate": 1e-3, "model": {"channels": 4, "windows": [256, 64]}}


def with_vocoder(recipe: RunConfig, **changes: Any) -> RunConfig:
    """A recipe with changed keys in its vocoder section."""
    assert recipe.vocoder is not None
    section = {**recipe.vocoder.model_dump(mode="json"), **changes}
    return RunConfig.model_validate({**recipe.model_dump(mode="json"), "vocoder": section})


def test_short_training_brings_the_sound_nearer(manifest: Manifest, tmp_path: Path) -> None:
    recipe = smallest_recipe(steps=60)
    assert recipe.vocoder is not None and recipe.vocoder.train is not None
    train = recipe.vocoder.train.model_dump() | {
        "learning_rate": 3e-3, "validate_every": 10, "preview_every": 0, "save_every": 0,
    }  # fmt: skip
    run = new_run(with_vocoder(recipe, train=train), manifest, tmp_path)
    run.run("vocoder")
    rows = read_metrics(run.folder.job("vocoder") / METRICS)
    losses = [row["model/loss"] for row in rows if "model/loss" in row]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    held_out = [row for row in rows if "validate/convergence" in row]
    for name in ("validate/convergence", "validate/log_magnitude"):
        assert held_out[-1][name] < held_out[0][name]


def test_finished_vocoder_is_a_part_of_the_model(finished: Run) -> None:
    pipeline = SoundingVideoPipeline.from_pretrained(finished.folder.model)
    export = FourierVocoder.from_pretrained(finished.folder.export("vocoder"))
    assert isinstance(pipeline.vocoder, FourierVocoder)
    mel = -70 * torch.rand(1, 32, 10)
    with torch.no_grad():
        assert torch.equal(pipeline.vocoder(mel), export(mel))
    without = SoundingVideoPipeline.from_pretrained(finished.folder.export("generator"))
    assert without.vocoder is None


def test_run_finished_without_a_vocoder_gets_one_later(
    finished: Run, manifest: Manifest, tmp_path: Path
) -> None:
    run = new_run(smallest_recipe(steps=1), manifest, tmp_path)
    copytree(finished.folder.export("generator"), run.folder.model)
    run.folder.job("generator").mkdir()
    copytree(finished.folder.export("generator"), run.folder.export("generator"))
    assert SoundingVideoPipeline.from_pretrained(run.folder.model).vocoder is None
    run.run("vocoder")
    pipeline = SoundingVideoPipeline.from_pretrained(run.folder.model)
    assert pipeline.vocoder is not None
    pipeline.set_progress_bar_config(disable=True)
    [clip] = pipeline(num_samples=1, seed=0).clips
    assert clip.waveform.shape == (CLIP.num_samples,)


def test_pretrained_vocoder_is_taken_as_it_is(
    finished: Run, manifest: Manifest, tmp_path: Path
) -> None:
    source = finished.folder.export("vocoder")
    recipe = with_vocoder(smallest_recipe(), pretrained=str(source), model=None, train=None)
    run = new_run(recipe, manifest, tmp_path)
    assert run.run("vocoder") is None
    ours, theirs = (
        FourierVocoder.from_pretrained(f) for f in (run.folder.export("vocoder"), source)
    )
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name])


def test_vocoder_of_other_clips_is_refused(finished: Run) -> None:
    source = str(finished.folder.export("vocoder"))
    recipe = with_vocoder(smallest_recipe(), pretrained=source, model=None, train=None)
    assert recipe.vocoder is not None
    faster = CLIP.model_copy(update={"sample_rate": 16000})
    with pytest.raises(UserError, match="trained on sound of 8000 Hz"):
        build_vocoder(recipe.vocoder, faster, seed=0)


def test_noise_on_the_spectrogram_changes_the_loss_and_nothing_else(
    manifest: Manifest, tmp_path: Path
) -> None:
    losses = []
    for noise in (0.0, 3.0):
        recipe = with_vocoder(smallest_recipe(steps=1), loss={"mel_noise": noise})
        run = new_run(recipe, manifest, tmp_path / str(noise))
        run.run("vocoder")
        [row] = [r for r in read_metrics(run.folder.job("vocoder") / METRICS) if "model/loss" in r]
        losses.append(row["model/loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def windows() -> WindowBatch:
    generator = torch.Generator().manual_seed(3)
    frames = torch.randint(0, 256, (4, 4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    sound = 0.2 * torch.randn(4, CLIP.num_samples, generator=generator)
    here = torch.ones(4, dtype=torch.bool)
    return WindowBatch(frames, sound, AV(here, here), torch.zeros(4).long(), torch.arange(4))


def test_critic_joins_at_its_step_and_learns(manifest: Manifest, tmp_path: Path) -> None:
    recipe = with_vocoder(smallest_recipe(steps=6), loss={"adversarial": 0.5}, critic=CRITIC)
    run = new_run(recipe, manifest, tmp_path)
    run.run("vocoder")
    rows = read_metrics(run.folder.job("vocoder") / METRICS)
    judged = [row["step"] for row in rows if "model/adversarial" in row]
    assert judged == [row["step"] for row in rows if "critic/loss" in row] == [3, 4, 5, 6]


def test_critic_pulls_each_sound_as_hard_as_the_other_terms(manifest: Manifest) -> None:
    recipe = with_vocoder(smallest_recipe(), loss={"adversarial": 1.0}, critic=CRITIC)
    stage = VocoderStage(recipe, manifest, CPU)
    adversary = stage.adversary
    assert adversary is not None
    generator = torch.Generator().manual_seed(0)
    real, made = (0.1 * torch.randn(2, 800, generator=generator) for _ in range(2))
    made.requires_grad_()
    # The second sound differs ten times more.
    closeness = (torch.tensor([[1.0], [10.0]]) * (made - real).square()).sum()
    share = torch.full((2,), 0.5)
    balanced, _ = adversary.model_loss(made, real, share, closeness, micro=0)
    [push] = torch.autograd.grad(balanced, made, retain_graph=True)
    [pull] = torch.autograd.grad(closeness, made)
    assert torch.allclose(push.norm(dim=1), pull.norm(dim=1), rtol=1e-3)
    [handoff] = adversary.handoff[0]
    assert handoff.share.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("with_autoencoder", [False, True])
def test_decoded_rows_read_what_the_model_gives_back(
    with_autoencoder: bool, finished: Run, manifest: Manifest
) -> None:
    vae = load_image_vae(finished.folder.export("vae"))
    autoencoder = None
    if with_autoencoder:
        autoencoder = load_autoencoder(finished.folder.export("autoencoder"))
    recipe = with_vocoder(smallest_recipe(), loss={"decoded": 0.5})
    stage = VocoderStage(recipe, manifest, CPU, vae, autoencoder)
    # The sound's decoder sees the pictures, so they are read where there is one.
    assert stage.sound_only != with_autoencoder
    turn, batch = stage.turns["model"], windows()
    assert isinstance(turn, VocoderTurn) and turn.decoded is not None
    image = turn.audio_image.image(batch.waveforms)
    rows = torch.tensor([0, 2])
    back = turn.decoded(image, batch, rows, StepRandom(0, 0, "model", batch_size=4))
    assert back.shape == (2, 1, 3, 32, 32) and back.abs().max() <= 1
    if not with_autoencoder:
        kept = vae.decode(vae.encode(image[rows, 0]).latent_dist.mode()).sample.clamp(-1, 1)
        torch.testing.assert_close(back[:, 0], kept)
    # A row's image does not depend on which others are decoded.
    alone = turn.decoded(image, batch, rows[1:], StepRandom(0, 0, "model", batch_size=4))
    torch.testing.assert_close(alone, back[1:], atol=1e-4, rtol=1e-4)

    # The true sound stays what it is to sound like, and only the vocoder learns.
    turn(batch, StepRandom(0, 0, "model", batch_size=4))["loss"].backward()
    assert all(p.grad is not None for p in stage.vocoder.parameters())
    assert {id(p) for p in turn.parameters()} == {id(p) for p in stage.vocoder.parameters()}


def test_clip_without_sound_counts_as_zero(manifest: Manifest) -> None:
    turn = VocoderStage(smallest_recipe(), manifest, CPU).turns["model"]
    batch = windows()
    here = torch.tensor([True, True, False, True])
    lacking = batch._replace(present=AV(here, batch.present.video))
    silenced = lacking._replace(waveforms=batch.waveforms * here[:, None])
    losses = [turn(b, StepRandom(0, 0, "model", 4))["loss"] for b in (lacking, silenced)]
    torch.testing.assert_close(*losses)


def test_decoded_rows_need_an_image_vae(manifest: Manifest, tmp_path: Path) -> None:
    run = new_run(with_vocoder(smallest_recipe(), loss={"decoded": 0.5}), manifest, tmp_path)
    with pytest.raises(UserError, match="run the vae job first"):
        run.run("vocoder")


def test_checkpoints_without_the_new_terms_are_still_resumed(manifest: Manifest) -> None:
    job = VocoderStage(smallest_recipe(), manifest, CPU).fingerprint()["job"]
    assert set(job) == {"pretrained", "spectrogram", "model", "loss"}
    assert set(job["loss"]) == {"convergence", "log_magnitude", "mel", "mel_noise"}


def test_folder_of_sounds_alone_trains_a_vocoder(tmp_path: Path) -> None:
    sounds, generator = tmp_path / "sounds", torch.Generator().manual_seed(0)
    sounds.mkdir()
    for i, (codec, suffix) in enumerate([("flac", "flac"), ("pcm_s16le", "wav")] * 3):
        samples = 0.2 * torch.randn(1, 12_000, generator=generator).numpy()
        write_sound(sounds / f"{i}.{suffix}", samples, rate=16_000, codec=codec)
    # Half as long as a clip.
    write_sound(sounds / "short.wav", samples[:, :3200], rate=16_000, codec="pcm_s16le")
    recipe = tmp_path / "recipe.yaml"
    save_config(smallest_recipe(steps=2), recipe)
    out = tmp_path / "run"
    command = (
        "train",
        "vocoder",
        "--config",
        str(recipe),
        "--data",
        str(sounds),
        "--out",
        str(out),
    )
    result = mmldm(*command, "--device", "cpu", "--set", "data.allow_missing=true").succeeded()
    assert str(out / "vocoder" / "export") in result
    assert FourierVocoder.from_pretrained(out / "vocoder" / "export").sample_rate == 8000
    # One is held out to be listened to, though none has a picture.
    manifest = Manifest.load(out / "manifest.jsonl")
    assert [len(manifest.split(side)) for side in ("train", "held_out")] == [6, 1]
    [short] = [entry for entry in manifest.entries if entry.path == "short.wav"]
    assert short.status == "used_with_note"
    assert short.note == "no picture; 0.20 s of sound, continued with silence"
    assert list((out / "vocoder" / "previews").glob("*.mp4"))


def test_recipe_without_the_section_has_three_jobs() -> None:
    recipe = smallest_recipe()
    assert jobs_of(recipe) == ("vae", "autoencoder", "generator", "vocoder")
    without = recipe.model_copy(update={"vocoder": None})
    assert jobs_of(without) == ("vae", "autoencoder", "generator")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": None}, "exactly one of pretrained and model"),
        ({"train": None}, "a model needs a train section"),
        ({"pretrained": "x", "model": None}, "a pretrained vocoder is used as it is"),
        ({"spectrogram": {}}, "spectrogram describes a pretrained vocoder"),
        ({"loss": {"adversarial": 0.5}}, "loss.adversarial above 0 and a critic section"),
        ({"critic": CRITIC}, "loss.adversarial above 0 and a critic section"),
        ({"image_vae": "x"}, "are for rows of loss.decoded, which is 0"),
    ],
)
def test_section_that_contradicts_itself_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        with_vocoder(smallest_recipe(), **changes)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("wdth", r"vocoder.model.wdth: unknown key, did you mean width\?"),
        ("sample_rate", "vocoder.model.sample_rate: derived from the rest of the recipe"),
    ],
)
def test_wrong_key_of_the_model_is_named(key: str, sentence: str) -> None:
    recipe = with_vocoder(smallest_recipe(), model={key: 1})
    assert recipe.vocoder is not None
    with pytest.raises(UserError, match=sentence):
        build_vocoder(recipe.vocoder, CLIP, seed=0)


def test_reading_the_sound_alone_gives_the_same_sound(manifest: Manifest) -> None:
    both = WindowDataset(manifest, CLIP, "train", seed=0)
    sound = WindowDataset(manifest, CLIP, "train", seed=0, sound_only=True)
    for index in range(2):
        whole, part = both[(1, index)], sound[(1, index)]
        assert isinstance(whole, WindowBatch) and isinstance(part, WindowBatch)
        assert torch.equal(part.waveforms, whole.waveforms)
        assert len(whole.frames) == CLIP.num_frames and len(part.frames) == 0

"""The generator job: what each task shows, and that being given the other modality is worth something."""

import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mmldm.data.latents import Splits
from mmldm.errors import UserError
from mmldm.models.generator import JointGenerator, load_generator
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.sections import TASKS, KnownSlotsConfig
from mmldm.training.checkpoint import refuse_changes
from mmldm.training.jobs.generator import GeneratorStage, GeneratorTurn, build_generator
from mmldm.training.randomness import StepRandom
from mmldm.training.run import Run
from mmldm.training.summary import summarise
from mmldm.types import AV, Latents

from ...smallest import smallest_recipe
from ..rows import rows_of

pytestmark = pytest.mark.slow

ROWS = 4


@pytest.fixture
def stage(finished: Run) -> GeneratorStage:
    pipeline = SoundingVideoPipeline.from_pretrained(finished.folder.model)
    caches = Splits.open(finished.folder.cache("latents"))
    return GeneratorStage(smallest_recipe(), pipeline, caches, torch.device("cpu"))


def errors(
    stage: GeneratorStage, task: str, batch: Latents | None = None
) -> tuple[AV[torch.Tensor], AV[torch.Tensor]]:
    batch = batch or next(stage.batches(0, 0, 1))
    tasks = torch.full((ROWS,), TASKS.index(task))
    random = StepRandom(0, 0, "test", ROWS)
    timesteps = random.integers(0, stage.process.num_timesteps, (ROWS,))
    return stage.turn.errors(batch, tasks, timesteps, random, class_dropout=0.5)


@pytest.mark.parametrize(
    ("task", "audio", "video"),
    [
        ("joint", True, True),
        ("audio_to_video", False, True),
        ("video_to_audio", True, False),
        ("audio_only", True, False),
        ("video_only", False, True),
    ],
)
def test_only_what_a_task_generates_enters_the_loss(
    stage: GeneratorStage, task: str, audio: bool, video: bool
) -> None:
    _, predicted = errors(stage, task)
    assert predicted.audio.tolist() == [audio] * ROWS
    assert predicted.video.tolist() == [video] * ROWS


def test_video_only_does_not_see_the_audio_and_audio_to_video_does(stage: GeneratorStage) -> None:
    torch.manual_seed(0)
    for stream in stage.generator.streams:
        torch.nn.init.normal_(stream.embed_given.weight)
    for parameter in stage.generator.parameters():  # leave adaLN-Zero's all-zero start
        parameter.data += 0.05 * torch.randn_like(parameter)
    stage.generator.eval()
    batch = next(stage.batches(0, 0, 1))
    audio = torch.randn_like(batch.mean.audio)
    other = batch._replace(mean=batch.mean._replace(audio=audio))
    for task, sees in (("video_only", False), ("audio_to_video", True), ("joint", True)):
        before, after = errors(stage, task)[0].video, errors(stage, task, other)[0].video
        assert torch.equal(before, after) != sees, task


def test_task_mix_follows_the_configured_shares(stage: GeneratorStage) -> None:
    drawn = StepRandom(0, 0, "tasks", 20_000).uniform((20_000,))
    tasks = torch.searchsorted(stage.turn.task_ends, drawn, right=True)
    shares = torch.bincount(tasks, minlength=len(TASKS)) / 20_000
    wanted = torch.tensor([stage.job.tasks.get(task, 0.0) for task in TASKS])
    assert torch.allclose(shares, wanted, atol=0.015)


def test_loss_does_not_depend_on_how_the_batch_is_split(stage: GeneratorStage) -> None:
    """The promise behind several processes and accumulation: a mean of means is the mean."""
    batch = next(stage.batches(0, 0, 1))
    whole = stage.turn(batch, StepRandom(0, 0, "model", ROWS))["loss"]
    halves = [
        stage.turn(
            rows_of(batch, rows),
            StepRandom(0, 0, "model", ROWS, rows),
        )["loss"]
        for rows in (range(2), range(2, 4))
    ]
    assert torch.allclose(whole, torch.stack(halves).mean(), rtol=1e-5)


@pytest.fixture
def knowing(stage: GeneratorStage) -> GeneratorTurn:
    """A turn in which most rows know slots, of a network away from its zeros."""
    config = stage.job.model_copy(update={"known_slots": KnownSlotsConfig(share=0.8)})
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in stage.generator.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    stage.turn = GeneratorTurn(stage.generator, stage.process, config)
    return stage.turn


def test_loss_with_known_slots_does_not_depend_on_how_the_batch_is_split(
    stage: GeneratorStage, knowing: GeneratorTurn
) -> None:
    batch = next(stage.batches(0, 0, 1))
    whole = knowing(batch, StepRandom(0, 0, "model", ROWS))["loss"]
    halves = [
        knowing(rows_of(batch, rows), StepRandom(0, 0, "model", ROWS, rows))["loss"]
        for rows in (range(2), range(2, 4))
    ]
    assert torch.allclose(whole, torch.stack(halves).mean(), rtol=1e-5)
    ignorant = GeneratorTurn(stage.generator, stage.process, stage.job)
    assert not torch.allclose(whole, ignorant(batch, StepRandom(0, 0, "model", ROWS))["loss"])


def test_only_unknown_slots_enter_the_loss(stage: GeneratorStage, knowing: GeneratorTurn) -> None:
    batch = next(stage.batches(0, 0, 1))
    tasks = torch.full((ROWS,), TASKS.index("joint"))
    slots = AV(torch.tensor([[1.0, 0.9, 0, 0]] * ROWS), torch.tensor([[0, 0, 0, 1.0]] * ROWS))

    def errors() -> AV[torch.Tensor]:
        random = StepRandom(0, 0, "test", ROWS)
        return knowing.errors(batch, tasks, torch.full((ROWS,), 500), random, 0.0, slots)[0]

    def worsened(flags: torch.Tensor, known: bool) -> AV[torch.Tensor]:
        """With predictions that are off by much in known, or in unknown, audio slots."""
        off = 10.0 * ((flags > 0) == known)[:, None, :, None, None]
        hook = stage.generator.register_forward_hook(
            lambda module, inputs, output: AV(output.audio + off, output.video)
        )
        found = errors()
        hook.remove()
        return found

    before = errors()
    assert all(map(torch.equal, before, worsened(slots.audio, known=True)))
    after = worsened(slots.audio, known=False)
    assert torch.equal(after.video, before.video)
    assert (after.audio > before.audio + 50).all()


def test_known_slots_are_read(stage: GeneratorStage, knowing: GeneratorTurn) -> None:
    batch = next(stage.batches(0, 0, 1))
    tasks = torch.full((ROWS,), TASKS.index("video_only"))
    prefix = torch.tensor([[1.0, 0, 0, 0]] * ROWS)
    slots = AV(torch.zeros_like(prefix), prefix)
    seen = []
    for audio, video in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        mean = batch.mean.map(torch.clone)
        mean.audio.add_(audio)
        mean.video[:, :, 0] += video
        random = StepRandom(0, 0, "test", ROWS)
        changed = batch._replace(mean=mean)
        level = torch.full((ROWS,), 500)
        seen.append(knowing.errors(changed, tasks, level, random, 1.0, slots)[0].video)
    assert torch.equal(seen[0], seen[1])  # the absent sound
    assert not torch.allclose(seen[0], seen[2])  # the picture's own known start


def test_prefix_and_retake_are_measured_where_they_are_trained(
    stage: GeneratorStage, knowing: GeneratorTurn
) -> None:
    trained = {"prefix/audio", "prefix/video", "retake/audio", "retake/video"}
    assert trained <= set(stage.validate())
    stage.turn = GeneratorTurn(stage.generator, stage.process, stage.job)
    assert not trained & set(stage.validate())


def test_runs_from_before_known_slots_resume(stage: GeneratorStage) -> None:
    identity = stage.fingerprint()
    before = json.loads(json.dumps(identity))  # as a checkpoint holds it
    assert before["job"].pop("known_slots") is None
    refuse_changes(before, identity, "run")
    stage.job = stage.job.model_copy(update={"known_slots": KnownSlotsConfig()})
    with pytest.raises(UserError, match=r"known_slots.share was null and is now 0.4"):
        refuse_changes(before, stage.fingerprint(), "run")


def test_known_slots_of_latents_without_a_time_axis_are_refused_before_any_training() -> None:
    section = {**smallest_recipe().generator.model_dump(), "known_slots": {}}
    recipe = smallest_recipe(paper_form=True)
    recipe = recipe.model_copy(update={"generator": recipe.generator.model_validate(section)})
    with pytest.raises(UserError, match=r"known_slots: latents without a time axis"):
        summarise(recipe, 0)


def test_pretrained_generator_goes_on_and_another_shape_is_refused(finished: Run) -> None:
    source = str(finished.folder.export("generator"))
    trained = load_generator(source).state_dict()
    cache = Splits.open(finished.folder.cache("latents")).train

    def going_on(model: dict[str, Any]) -> JointGenerator:
        recipe = smallest_recipe()
        section = recipe.generator.model_copy(update={"pretrained": source, "model": model})
        return build_generator(recipe.model_copy(update={"generator": section}), cache, 2)

    model = smallest_recipe().generator.model
    assert all(torch.equal(trained[k], v) for k, v in going_on(model).state_dict().items())
    with pytest.raises(UserError, match=r"generator.pretrained: .* the recipe in depth: take its"):
        going_on({**model, "depth": 3})


def test_held_out_gap_is_logged_for_both_directions(stage: GeneratorStage) -> None:
    values = stage.validate()
    assert {"gap/audio", "gap/video", "joint/audio", "joint/video"} <= set(values)
    assert values == stage.validate()


@pytest.mark.parametrize(
    ("density", "median"), [(None, 500), ((0.0, 1.2), 500), ((-1.0, 0.5), 269)]
)
def test_noise_levels_follow_the_configured_density(
    stage: GeneratorStage, density: tuple[float, float] | None, median: float
) -> None:
    config = stage.job.model_copy(update={"logit_normal": density})
    turn = GeneratorTurn(stage.generator, stage.process, config)
    levels = turn.timesteps(StepRandom(0, 0, "test", 4000), 4000)
    assert levels.min() >= 0
    assert levels.max() <= 999
    assert float(levels.float().median()) == pytest.approx(median, abs=30)
    tails = float(((levels < 100) | (levels >= 900)).float().mean())
    assert (tails < 0.1) == (density is not None)


def test_a_density_without_width_is_refused() -> None:
    with pytest.raises(ValidationError, match="standard deviation must be above 0"):
        smallest_recipe().generator.model_validate(
            {**smallest_recipe().generator.model_dump(), "logit_normal": [0.0, 0.0]}
        )


def test_validation_does_not_tell_the_class(stage: GeneratorStage) -> None:
    before = stage.validate()
    with torch.no_grad():
        stage.generator.class_embedding.weight[:-1] += 10.0
        after = stage.validate()
        stage.generator.class_embedding.weight[:-1] -= 10.0
    assert after == before

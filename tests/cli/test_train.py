"""`mmldm train`: mistakes cost a sentence and nothing else; a run goes on where it stopped."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmldm.config import load_config
from mmldm.training.checkpoint import CheckpointFolder

from .commandline import contents, environment, in_process, mmldm

pytestmark = pytest.mark.slow


@pytest.fixture
def copied_run(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def test_run_folder_holds_what_is_printed(run_folder: Path, clip_folder: Path) -> None:
    result = mmldm("train", clip_folder, "--out", run_folder)
    out = result.succeeded()
    assert f"next:   mmldm generate --model {run_folder}" in out
    assert str(run_folder / "model") in out
    assert (run_folder / "model" / "model_index.json").is_file()
    assert "<svg" in (run_folder / "report.html").read_text()


def test_first_lines_say_what_is_to_come_and_stand_in_the_log(
    clip_folder: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = mmldm("train", clip_folder, "--config", recipe, "--out", out, "--device", "cpu")
    result.succeeded()
    first, second, *_ = result.err.splitlines()
    assert first == f"mmldm train {clip_folder}, into {out}"
    assert second.startswith("jobs: vae 2 steps, autoencoder 2 steps, generator 2 steps")
    log = (out / "train.log").read_text()
    assert first in log and second in log and "image latents, train" in log
    for job in ("vae", "autoencoder", "generator"):
        assert "training, step 0/2" in (out / job / "train.log").read_text()
    page = (out / "report.html").read_text()
    assert "<video controls" in page and "data:video/mp4;base64," in page and "too few" in page


def test_dry_run_says_memory_by_picture_and_batch(clip_folder: Path, recipe: Path) -> None:
    out = mmldm("train", clip_folder, "--config", recipe, "--dry-run").succeeded()
    table = out.partition("memory of a training step")[2]
    for size in ("16x16", "32x32", "64x64"):
        assert size in table
    assert "too few" in out


def test_finished_run_is_left_as_it_is(run_folder: Path, clip_folder: Path) -> None:
    def results() -> dict[str, bytes]:
        files = contents(run_folder).items()
        return {name: data for name, data in files if not name.endswith((".log", ".lock"))
                and "tensorboard" not in name}  # fmt: skip

    before = results()
    mmldm("train", clip_folder, "--out", run_folder).succeeded()
    assert results() == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("vae.bogus=3", "vae.bogus: unknown key"),
        ("generator.train.lerning_rate=1", "did you mean learning_rate?"),
        ("vae.train.steps=many", "vae.train.steps: 'many' is wrong, expected a valid integer"),
        ("vae.model=null", "exactly one of pretrained and model must be set"),
        ("vae.train.steps", "write it as section.key=value"),
        ("clip.sample_rate=4000", "exceeds half the sample rate"),
        ("vae.model.latent_channels=0", "vae.model: no network can be built"),
        ("autoencoder.model.prompt_tokens=few", "autoencoder.model: no network can be built"),
        ("autoencoder.model.decoder_config.norm_num_groups=7", "norm_num_groups 7"),
        ("autoencoder.image_vae=/nowhere", "'/nowhere' is neither a folder here"),
        ("generator.model.heads=7", "must be a multiple of 7 heads"),
        ("generator.model.null_stream=zeros", "null_stream 'zeros' must be 'renoised' or 'noise'"),
        ("autoencoder.decoder_init=sd", "decoder_patch_size must be 1, not 2"),
        ("autoencoder.target_frames=5", "target_frames 5 exceeds clip.num_frames 4"),
        ("generator.model.heds=7", "generator.model.heds: unknown key, did you mean heads?"),
        ("generator.autoencoder=/nowhere", "/nowhere"),
        ("generator.schedule.kind=straight", "generator.schedule: kind: 'straight' is wrong"),
        ("sample.scheduler=magic", "unknown scheduler 'magic'"),
        ("vocoder.model.wdth=3", "vocoder.model.wdth: unknown key, did you mean width?"),
        ("vocoder.model.subcolumns=7", "must divide hop_length 100"),
        ("vocoder.mdl.width=3", "vocoder.mdl: unknown key, did you mean model?"),
    ],
)
def test_wrong_setting_of_any_job_is_refused_before_the_first_one_starts(
    change: str, sentence: str, clip_folder: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ("--config", recipe, "--out", out, "--set", change)
    assert sentence in mmldm("train", clip_folder, *words).complaint()
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("clip: {num_frames: 4}", "vae: missing key"),
        ("- a list", "must be a mapping of sections"),
        ("vae: [1, 2", "not valid YAML"),
        ("clip: {}\nclip: {}", "the key 'clip' stands twice"),
    ],
)
def test_broken_recipe_file_is_named(
    text: str, sentence: str, clip_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    result = mmldm("train", clip_folder, "--config", path, "--out", tmp_path / "run")
    complaint = result.err.partition("mmldm: ")[2]
    assert result.code == 2
    assert complaint.startswith(str(path))
    assert sentence in complaint
    assert "Traceback" not in result.err
    assert not (tmp_path / "run").exists()


def test_clips_that_are_not_there_or_not_usable_are_a_sentence(
    recipe: Path, tmp_path: Path
) -> None:
    bad, out = tmp_path / "bad", tmp_path / "run"
    bad.mkdir()
    words = ("--config", recipe, "--out", out)
    assert "is neither clips nor one of" in mmldm("train", tmp_path / "no", *words).complaint()
    assert "holds no media files" in mmldm("train", bad, *words).complaint()
    (bad / "a.mp4").write_text("not a video")
    assert "none of the 1 media files" in mmldm("train", bad, *words).complaint()
    assert not out.exists()


def test_what_does_not_go_together_is_a_sentence(
    clip_folder: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ("--config", recipe, "--out", out)
    complaint = mmldm("train", clip_folder, *words, "--minutes", 0.1).complaint()
    assert "--minutes 0.1 is too short to learn anything: give at least 1" in complaint
    assert "too short" in mmldm("train", clip_folder, "--out", out, "--minutes", 0.1).complaint()
    complaint = mmldm("train", clip_folder, *words, "--minutes", 3, "--jobs", "vae").complaint()
    assert "--jobs names the jobs of an earlier run" in complaint
    assert "device banana" in mmldm("train", clip_folder, *words, "--device", "banana").complaint()
    assert "device meta" in mmldm("train", clip_folder, *words, "--device", "meta").complaint()
    assert "needs --config" in mmldm("train", "vae", "--out", out).complaint()
    assert "no clips" in mmldm("train", "vae", *words).complaint()
    without = ("--set", "vocoder=null", "--set", f"data.folder={clip_folder}")
    complaint = mmldm("train", "vocoder", *words, *without).complaint()
    assert "the recipe has no vocoder section" in complaint
    assert not out.exists()


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_file_in_the_way_of_the_run_folder_is_a_sentence(
    place: str, clip_folder: Path, recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    words = ("--config", recipe, "--out", tmp_path / place)
    assert "is not a folder" in mmldm("train", clip_folder, *words).complaint()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("generator.train.learning_rate=0.5", "train.learning_rate was 0.001 and is now 0.5"),
        ("data.held_out=0.5", "data.held_out was 0.1 and is now 0.5"),
    ],
)
def test_run_with_a_changed_setting_is_refused_by_name_and_keeps_its_recipe(
    change: str, sentence: str, copied_run: Path, clip_folder: Path
) -> None:
    def kept() -> dict[str, bytes]:
        files = contents(copied_run).items()
        return {name: data for name, data in files if name.endswith((".yaml", ".safetensors"))}

    before = kept()
    result = mmldm("train", clip_folder, "--out", copied_run, "--set", change)
    assert sentence in result.complaint()
    assert kept() == before


def test_run_about_other_clips_is_refused(copied_run: Path, clip_folder: Path) -> None:
    other = clip_folder / "wood"
    complaint = mmldm("train", other, "--out", copied_run).complaint()
    assert f"is about the clips in {clip_folder}, not about {other}" in complaint


def test_run_and_clips_may_move_and_new_clips_are_told(
    copied_run: Path, clip_folder: Path, tmp_path: Path
) -> None:
    new = Path(shutil.copytree(clip_folder, tmp_path / "moved"))
    words = ("train", "vae", "--out", copied_run, "--device", "cpu")
    assert f"{clip_folder}: 10 media files" in mmldm(*words).succeeded()
    out = mmldm(*words, "--data", new).succeeded()
    assert f"the clips of {clip_folder} are in {new} now: all are there." in out
    assert load_config(copied_run / "config.yaml").data.folder == str(new)
    shutil.copy(next(new.glob("wood/*.mp4")), new / "wood" / "twice.mp4")
    out = mmldm("train", new, "--out", copied_run, "--device", "cpu").succeeded()
    assert (
        "1 clips have come or been mended since the scan and are not trained on (such as wood"
        in out
    )
    assert f"next:   mmldm generate --model {copied_run}" in out
    complaint = mmldm(*words, "--rescan").complaint()
    assert "job has been trained on the clips as they were scanned" in complaint
    fresh = ("--out", tmp_path / "fresh", "--config", copied_run / "config.yaml", "--dry-run")
    out = mmldm("train", "vae", *fresh).succeeded()
    assert "11 media files" in out and "equal contents: 1 files repeat another one" in out


def test_second_process_on_a_run_is_refused(copied_run: Path, clip_folder: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from mmldm.training.stopping import run_lock\n"
        "with run_lock(Path(sys.argv[1]), print): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(copied_run)],
        env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        complaint = mmldm("train", clip_folder, "--out", copied_run).complaint()
        holder.communicate()
    assert f"already in use by process {holder.pid}" in complaint


def test_dry_run_prints_the_recipe_and_writes_nothing(
    clip_folder: Path, recipe: Path, tmp_path: Path
) -> None:
    words = ("--config", recipe, "--set", "seed=5", "--out", tmp_path / "run", "--dry-run")
    out = mmldm("train", clip_folder, *words).succeeded()
    recipe_text, _, table = out.partition(f"{clip_folder}: 10 media files")
    assert yaml.safe_load(recipe_text) == load_config(recipe, ["seed=5"]).model_dump(mode="json")
    assert "image latents audio (1, 4, 8, 8), video (4, 4, 8, 8)" in table
    rows = [line.split()[0] for line in table.partition("jobs ")[2].splitlines()[1:5]]
    assert rows == ["vae", "autoencoder", "generator", "vocoder"]
    paces = table.partition("how far it goes here")[2].splitlines()[1:]
    assert [line.split()[0] for line in paces] == rows
    assert all("s a step: " in line for line in paces)
    assert list(tmp_path.iterdir()) == []


def test_chosen_recipe_is_printed_for_the_clips_and_the_time(
    clip_folder: Path, tmp_path: Path
) -> None:
    long_enough = tmp_path / "clips"
    mmldm("synthesize", long_enough, "--clips", 4, "--workers", 1).succeeded()
    given = []
    for minutes in (10, 40):
        words = ("--minutes", minutes, "--dry-run", "--out", tmp_path / "run", "--device", "cpu")
        out = mmldm("train", long_enough, *words).succeeded()
        chosen = yaml.safe_load(out.partition(f"{long_enough}: 4 media files")[0])
        given.append(chosen["generator"]["train"]["minutes"])
    assert given == [4.0, 16.0]
    assert "too_short" in mmldm("train", clip_folder, "--dry-run").complaint()


def test_settings_of_the_scan_count_without_a_recipe_file(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    mmldm("synthesize", clips, "--clips", 12, "--workers", 1).succeeded()
    words = ("train", clips, "--out", tmp_path / "run", "--dry-run", "--device", "cpu")
    assert "held out 0" not in mmldm(*words).succeeded()
    assert "training 12, held out 0" in mmldm(*words, "--set", "data.held_out=0").succeeded()


@pytest.mark.parametrize("place", [".", "only"])
def test_three_clips_of_no_class_or_one_are_enough(
    place: str, clip_folder: Path, recipe: Path, tmp_path: Path
) -> None:
    """One class says nothing, so the model has none."""
    folder, run, out = tmp_path / "few" / place, tmp_path / "run", tmp_path / "out"
    folder.mkdir(parents=True)
    for i, clip in enumerate(sorted(clip_folder.glob("*/*.mp4"))[:3]):
        shutil.copy(clip, folder / f"{i}.mp4")
    mmldm("train", tmp_path / "few", "--config", recipe, "--out", run).succeeded()
    mmldm("generate", "--model", run, "--out", out, "-n", 1).succeeded()
    assert len(list(out.glob("*/*.mp4"))) == 1
    complaint = mmldm("generate", "--model", run, "--out", out, "--class", "only").complaint()
    assert "trained without classes" in complaint


def test_page_survives_a_kill_and_goes_on_with_the_run(
    clip_folder: Path, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["train", clip_folder, "--config", recipe, "--out", run, "--device", "cpu"]
    words += ["--set", "vae.train.steps=6", "--set", "vae.train.preview_every=2"]
    result = in_process(*words, strike=("turn", 4, "SIGKILL", run / "vae"))
    assert result.code == -9
    page = (run / "report.html").read_text()
    assert page.endswith("</html>\n") and "At step 2<" in page and "data:video/mp4" in page
    mmldm(*words).succeeded()
    page = (run / "report.html").read_text()
    assert "<td>6 of 6</td><td>finished</td>" in page and "At step 6<" in page


def test_interrupt_saves_and_a_full_disk_costs_no_checkpoint(
    clip_folder: Path, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["train", clip_folder, "--config", recipe, "--out", run, "--device", "cpu"]
    words += ["--set", "vae.train.steps=16", "--set", "vae.train.save_every=5"]
    words += ["--set", "vae.train.preview_every=0", "--set", "vae.train.validate_every=0"]
    result = in_process(*words, strike=("turn", 4, "SIGINT", run / "vae"))
    assert "stopped in vae, nothing lost: the same command goes on" in result.succeeded()
    assert "stopped by SIGINT" in (run / "report.html").read_text()
    checkpoints = CheckpointFolder(run / "vae" / "checkpoints", 2, print)
    [stopped] = checkpoints.steps()
    assert stopped == 4
    before = contents(checkpoints.folder(stopped))

    full = in_process(*words, largest_file=20_000)
    assert f"the last good one is step {stopped}" in full.complaint()
    assert contents(checkpoints.folder(stopped)) == before
    assert checkpoints.newest_whole() == stopped
    assert not list((run / "vae" / "checkpoints").glob(".*"))


def test_minutes_go_to_a_run_that_counts_steps_and_again_to_its_generator(
    copied_run: Path, clip_folder: Path
) -> None:
    """Obeyed beside a recipe: a finished run has a new round, and --jobs says what is made with the old."""
    words = ("train", clip_folder, "--out", copied_run, "--device", "cpu")
    complaint = mmldm(*words, "--minutes", 5, "--jobs", "painter").complaint()
    assert "painter is not a job that this recipe trains: vae, autoencoder, generator" in complaint
    before = contents(copied_run / "generator" / "export")

    # Stopped in its third step: asked for again, it is in the midst of its round.
    result = in_process(
        *words, "--minutes", 5, strike=("turn", 3, "SIGINT", copied_run / "generator")
    )
    assert "stopped in generator, nothing lost" in result.succeeded()
    config = load_config(copied_run / "config.yaml")
    assert config.budget is not None and config.budget.jobs == ("generator",)
    assert config.generator.train.minutes == 5 and config.vae.train is not None
    assert config.vae.train.minutes is None
    assert contents(copied_run / "generator" / "export") == before
    checkpoints = CheckpointFolder(copied_run / "generator" / "checkpoints", 2, print)
    assert checkpoints.steps()[-1] == 2 + 3
    saved = checkpoints.load(5).values
    # Its rate was still rising, and goes on to.
    assert saved["schedule"]["start"] == 0 and saved["schedule"]["end"] is None

"""Table 2: one command samples, measures and prints, beside the paper's numbers and baselines."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mmldm.data.manifest import Manifest
from mmldm.evaluation.sets import ClipSet, clip_set
from mmldm.evaluation.sides import Finder
from mmldm.media.reader import read_clip
from mmldm.pipelines.published import BUNDLED
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

from .cli.commandline import environment, mmldm
from .evaluation.test_sets import RULES

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "real"
    synthesize(folder, ImpactsConfig(seed=1, materials=("wood", "glass")), 12, workers=1)
    return folder


@pytest.fixture(scope="module")
def halves(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The world's clips as two baselines write theirs: GIFs without sound, and sounds in WAV."""
    out = tmp_path_factory.mktemp("baselines")
    folders = {name: out / name for name in ("gif", "wav")}
    for folder in folders.values():
        folder.mkdir()
    for i, path in enumerate(sorted(world.rglob("*.mp4"))):
        clip = read_clip(path, 0.0, ImpactsConfig().spec)
        frames = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in clip.frames]
        frames[0].save(
            folders["gif"] / f"{i}.gif", save_all=True, append_images=frames[1:], duration=100
        )
        clip.save(folders["wav"] / f"{i}.wav")
    return folders


def found(folder: Path, out: Path) -> ClipSet:
    finder = Finder(out, RULES, 1, lambda what, done, total: None)
    manifest = finder.manifest("generated", folder, one_modality=True)
    return clip_set("generated", manifest, manifest.entries, RULES)


def test_sets_of_one_modality_are_read_and_say_what_they_lack(
    halves: dict[str, Path], world: Path, tmp_path: Path
) -> None:
    for name, lacks in (("gif", "audio"), ("wav", "video")):
        clips = found(halves[name], tmp_path / name)
        assert (len(clips.clips), clips.lacks) == (12, lacks)
        clip = clips.clips[0].read(RULES.spec)
        assert bool(clip.waveform.any()) == (name == "wav") and bool(clip.frames.any()) == (
            name == "gif"
        )
    assert found(world, tmp_path / "both").lacks is None


def test_clips_of_one_modality_are_measured_by_what_they_have(
    halves: dict[str, Path], world: Path, shared: Path, tmp_path: Path
) -> None:
    import json

    words = ("--metrics", "fad-yamnet,kad,silent,event-overlap", "--weights", shared / "weights")
    mmldm("evaluate", halves["wav"], world, "--out", tmp_path, "--workers", 1, *words).succeeded()
    report = json.loads((tmp_path / "report.json").read_text())
    numbers = {line["name"]: line["values"] for line in report["numbers"]}
    assert numbers["kad"]["generated"]["value"] < 0.2
    for name in ("silent", "event-overlap"):
        assert numbers[name]["generated"]["note"] == "its clips have no picture"
        assert numbers[name]["real"]["value"] is not None


@pytest.mark.smoke
def test_one_command_prints_the_block_of_table_2_with_baselines(
    halves: dict[str, Path], world: Path, shared: Path, tmp_path: Path
) -> None:
    rows = ("--row", f"Diffwave={halves['wav']}", "--row", f"TATS-base={halves['gif']}")
    words = ("--samples", 4, "--workers", 1, "--metrics", "kad,frame-fd,fvd", *rows)
    command = [ROOT / "runs" / "table2.py", "landscape", BUNDLED, world, tmp_path / "out", *words]
    weights = {"MMLDM_WEIGHTS": str(shared / "weights")}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env={**environment(), **weights}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "out" / "table2.md").read_text()
    assert table in done.stdout
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert "| MM-LDM | 256² | sounding video | 105 | - | 8.3 | - | 9.1 | - |" in lines
    shipped = {tuple(line.strip("| ").split(" | ")[:3]): line for line in lines[22:]}
    for kind in ("sounding video", "audio-to-video", "video-to-audio", "ground truth"):
        size = "-" if kind == "video-to-audio" else "64²"
        method = kind if kind == "ground truth" else "MM-LDM"
        count = "n 2:2" if kind == "ground truth" else "n 4:4"
        assert count in shipped[method, size, kind], table
    # Of what is given, and of what a baseline does not make, there is no number.
    assert shipped["MM-LDM", "64²", "audio-to-video"].endswith("| - |")
    assert shipped["Diffwave", "-", "sounding video"].startswith(
        "| Diffwave | - | sounding video | - |"
    )
    assert "FVD not measured: I3D needs its weights" in table
    manifest = Manifest.load(tmp_path / "out" / "MM-LDM" / "64" / "sets" / "generated.jsonl")
    assert len(manifest.usable) == 4

"""`scan` and `synthesize`."""

from pathlib import Path

import pytest
import torch

from mmldm.data.manifest import Manifest
from mmldm.media.reader import probe
from mmldm.media.writer import write_wav
from mmldm.training.recipe import tiny_clip

from .commandline import contents, mmldm


def test_scan_counts_clips_and_writes_the_manifest(clip_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "manifest.jsonl"
    result = mmldm("scan", clip_folder, "--frames", 4, "--workers", 1, "--out", path)
    out = result.succeeded()
    assert "10 media files, 10 usable" in out
    assert str(path) in out
    assert result.err == "scan 10/10\n"
    assert len(Manifest.load(path).usable) == 10


def test_scan_finds_classes_by_a_pattern(clip_folder: Path) -> None:
    words = ("--frames", 4, "--workers", 1, "--class-pattern", "(oo|las)")
    out = mmldm("scan", clip_folder, *words).succeeded()
    assert "class las: 5 clips" in out and "class oo: 5 clips" in out


def test_scan_keeps_sound_alone_where_allowed(clip_folder: Path, tmp_path: Path) -> None:
    sound = tmp_path / "alone.wav"
    write_wav(sound, torch.sin(torch.arange(32_000) / 9), 16_000)
    assert "no media files" in mmldm("scan", tmp_path).complaint()
    assert (
        "without picture: 1 (such as alone.wav)"
        in mmldm("scan", tmp_path, "--allow-missing").succeeded()
    )


def test_scan_says_why_nothing_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("not a video")
    assert "skipped, unreadable: 1 (such as a.mp4)" in mmldm("scan", tmp_path).succeeded()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nothing_here",), "does not exist"),
        ((".",), "holds no media files"),
        ((".", "--fps", "0"), "a training window: fps: 0.0 is wrong"),
        ((".", "--fps", "nan"), "a training window: fps"),
        ((".", "--class-pattern", "["), "class_pattern: '[' is no regular expression"),
        ((".", "--out", "file/manifest.jsonl"), "is not a folder"),
    ],
)
def test_scan_refuses_in_a_sentence(
    words: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    before = contents(tmp_path)
    assert sentence in mmldm("scan", *words).complaint()
    assert contents(tmp_path) == before


def test_synthesize_writes_clips_as_asked_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    words = ("--size", 32, "--seconds", 0.5, "--sample-rate", 8000, "--workers", 1)
    mmldm("synthesize", folder, "--clips", 2, *words).succeeded()
    before = contents(folder)
    mmldm("synthesize", folder, "--clips", 3, *words).succeeded()
    files = sorted(folder.glob("*/*.mp4"))
    assert len(files) == 3
    assert before.items() <= contents(folder).items()
    info = probe(files[0])
    assert (info.width, info.height, info.sample_rate) == (32, 32, 8000)
    assert info.duration == pytest.approx(0.5, abs=0.02)


def test_clips_are_made_for_the_recipe_that_comes_next(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    words = ("--clips", 3, "--workers", 1)
    out = mmldm("synthesize", folder, *words).succeeded()
    assert out.splitlines() == [f"3 clips in {folder}", f"next: mmldm train {folder}"]
    info, clip = probe(next(folder.glob("*/*.mp4"))), tiny_clip()
    assert (info.height, info.width) == (clip.height, clip.width) == (128, 128)
    assert info.sample_rate == clip.sample_rate
    run = ("--out", tmp_path / "run", "--device", "cpu", "--dry-run")
    assert "3 media files, 3 usable" in mmldm("train", folder, *run).succeeded()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("--size", 32),
            "the recipe that is chosen for them trains at 128 x 128 and scales these 32 x 32",
        ),
        (("--sample-rate", 8000), "trains at 16000 Hz and resamples these 8000 Hz"),
        (("--seconds", 0.5), "next: a recipe with clips of at most 0.5 s"),
    ],
)
def test_what_the_next_recipe_would_change_is_said(
    words: tuple[object, ...], sentence: str, tmp_path: Path
) -> None:
    folder = tmp_path / "clips"
    out = mmldm("synthesize", folder, "--clips", 1, "--workers", 1, *words).succeeded()
    assert sentence in out
    assert (f"next: mmldm train {folder}" in out) == ("--seconds" not in words)


def test_synthesize_never_writes_into_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    before = contents(tmp_path)
    assert "is not empty" in mmldm("synthesize", tmp_path, "--clips", 1).complaint()
    assert "is not a folder" in mmldm("synthesize", tmp_path / "thesis.txt").complaint()
    assert contents(tmp_path) == before

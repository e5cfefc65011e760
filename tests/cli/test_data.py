"""`scan` and `synthesize`."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmldm.config import load_config
from mmldm.data.folder import find_media
from mmldm.data.manifest import Manifest
from mmldm.data.scan import measure_files
from mmldm.errors import UserError
from mmldm.media.container import Limits
from mmldm.media.probe import probe
from mmldm.media.writer import write_wav
from mmldm.worlds.freedoom.game import require_sound

from .commandline import contents, mmldm

pytestmark = pytest.mark.slow


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
    out = tmp_path / "out" / "manifest.jsonl"
    result = mmldm("scan", tmp_path, "--out", out)
    assert "skipped, unreadable: 1 (such as a.mp4)" in result.out
    assert "none of the 1 media files" in result.complaint()
    assert len(Manifest.load(out).entries) == 1


def test_scan_shows_no_name_that_moves_the_cursor(clip_folder: Path, tmp_path: Path) -> None:
    name = "\x1b[2J\x07\r\u202eevil\nmmldm: fine"
    shutil.copytree(clip_folder / "wood", tmp_path / "clips" / name)
    (tmp_path / "clips" / f"{name}.mp4").write_text("no media")
    (tmp_path / "clips" / "link.mp4").symlink_to(f"../{name}")
    (tmp_path / name).touch()
    result = mmldm("scan", tmp_path / "clips", "--frames", 4, "--workers", 1)
    out = result.succeeded()
    assert r"class \x1b[2J\x07\r\u202eevil\nmmldm: fine: 5 clips" in out
    assert r"unreadable: 1 (such as \x1b[2J" in out
    assert r"1 link not followed (such as link.mp4 -> ../\x1b[2J" in out
    assert not [c for c in out + result.err if c != "\n" and not c.isprintable()]
    complaint = mmldm("scan", tmp_path / f"{name}.mp4").complaint()
    assert r"\x1b[2J\x07\r\u202eevil" in complaint


def test_scan_follows_links_and_keeps_recordings_together_where_asked(
    clip_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "wood").symlink_to(clip_folder / "wood")
    words = ("scan", tmp_path, "--frames", 4, "--workers", 1)
    assert "1 link not followed (such as wood -> " in mmldm(*words).complaint()
    out = mmldm(*words, "--follow-links", "--group-pattern", "([a-z]+)/").succeeded()
    assert "class wood: 5 clips" in out
    assert "recordings: 1 in 5 clips, each on one side" in out and "training 5, held out 0" in out


def test_interrupted_scan_goes_on_beside_its_output_and_writes_nothing_without_one(
    clip_folder: Path, tmp_path: Path
) -> None:
    out, kept = tmp_path / "manifest.jsonl", tmp_path / "manifest.jsonl.unfinished"
    listing = find_media(clip_folder).listing
    begun = measure_files(clip_folder, listing, Limits(), False, 1, kept)
    known = {listing[next(begun).index].path for _ in range(3)}
    begun.close()
    kept.write_text(kept.read_text().replace('"channels": 1', '"channels": 7'))
    words = ("scan", clip_folder, "--frames", 4, "--workers", 1)
    mmldm(*words).succeeded()
    assert contents(tmp_path).keys() == {kept.name}
    mmldm(*words, "--out", out).succeeded()
    rows = Manifest.load(out).usable
    assert len(rows) == 10 and {row.path for row in rows if row.channels == 7} == known
    assert contents(tmp_path).keys() == {out.name}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nothing_here",), "does not exist"),
        ((".",), "holds no media files"),
        ((".", "--fps", "0"), "a training window: fps: 0.0 is wrong"),
        ((".", "--fps", "nan"), "a training window: fps"),
        ((".", "--class-pattern", "["), "class_pattern: '[' is no regular expression"),
        ((".", "--group-pattern", "x"), "--group-pattern: group_pattern: 'x' has no (group)"),
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


def test_longer_clips_and_later_starts_go_on_and_say_so(tmp_path: Path) -> None:
    words = ("--clips", 1, "--size", 32, "--workers", 1)
    told = "a ball that rests is thrown again"
    mmldm("synthesize", tmp_path / "throw", *words, "--seconds", 1.6).succeeded()
    for name, *more in (
        ("long", "--seconds", 4),
        ("later", "--latest-start", 20),
    ):
        out = mmldm("synthesize", tmp_path / name, *words, *more).succeeded()
        assert told in out
        assert ("half of the clips begin at a random frame up to second 20" in out) == (
            name == "later"
        )
    worlds = {
        name: json.loads((tmp_path / name / "impacts.json").read_text())
        for name in ("throw", "long", "later")
    }
    assert [world["throws_again"] for world in worlds.values()] == [False, True, True]
    assert worlds["later"]["latest_start"] == 20 and worlds["long"]["spec"]["num_frames"] == 40


def test_clips_are_made_for_the_recipe_that_comes_next(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    words = ("--clips", 3, "--workers", 1)
    out = mmldm("synthesize", folder, *words).succeeded()
    assert out.splitlines() == [f"3 clips in {folder}", f"next: mmldm train {folder}"]
    info, clip = probe(next(folder.glob("*/*.mp4"))), load_config("impacts").clip
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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--world", "doom"), "--world: unknown 'doom'; known are impacts, freedoom"),
        (
            ("--scenarios", "basic"),
            "--scenarios is of the world freedoom: leave it out with --world impacts",
        ),
        (("--world", "freedoom", "--balls", 2), "--balls is of the world impacts"),
        (("--world", "freedoom", "--latest-start", 2), "--latest-start is of the world impacts"),
        (
            ("--world", "freedoom", "--scenarios", "e1m1"),
            "there is no scenario 'e1m1'; those there are",
        ),
        (("--world", "freedoom", "--fps", 10), "35 or 17.5, not 10"),
        (("--world", "freedoom", "--sample-rate", 16000), "sample_rate: 16000 is wrong"),
        (
            ("--size", "big"),
            "--size: 'big' is neither a number of pixels, 16 or more, nor WIDTHxHEIGHT",
        ),
        (("--size", "64x8"), "--size: '64x8' is neither"),
    ],
)
def test_synthesize_refuses_in_a_sentence(
    words: tuple[object, ...], sentence: str, tmp_path: Path
) -> None:
    assert sentence in mmldm("synthesize", tmp_path / "clips", "--clips", 1, *words).complaint()
    assert not (tmp_path / "clips").exists()


def test_pictures_may_be_wider_than_high(tmp_path: Path) -> None:
    out = mmldm("synthesize", tmp_path / "clips", "--clips", 1, "--size", "64x48", "--workers", 1)
    assert "trains at 128 x 128 and scales these 64 x 48" in out.succeeded()
    info = probe(next(tmp_path.glob("*/*/*.mp4")))
    assert (info.width, info.height) == (64, 48)


def test_freedoom_is_made_and_says_what_it_is(tmp_path: Path) -> None:
    try:
        require_sound()
    except UserError as error:
        pytest.skip(f"the game cannot be played here: {error}")
    words = ("--world", "freedoom", "--size", 32, "--seconds", 1.6, "--scenarios", "basic")
    out = mmldm("synthesize", tmp_path / "clips", "--clips", 2, "--workers", 1, *words).succeeded()
    assert "2 clips in" in out and "stereo" in out
    assert "takes 10 of these 17.5 frames a second" in out
    assert len(list(tmp_path.glob("clips/basic/*.mp4"))) == 2
    other = mmldm("synthesize", tmp_path / "clips", "--clips", 2, "--workers", 1).complaint()
    assert "is not empty and has no impacts.json" in other

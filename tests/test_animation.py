"""Animated pictures: the playhead, the spectrogram and the frame shown are of the same instant."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.media.sheet import CAPTION_HEIGHT, MARGIN
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "runs" / "animation.py"
loading = importlib.util.spec_from_file_location("animation", SCRIPT)
assert loading is not None and loading.loader is not None
animation = importlib.util.module_from_spec(loading)
loading.loader.exec_module(animation)
PAUSE, STRIP_HEIGHT = animation.PAUSE, animation.STRIP_HEIGHT
animate, instants, save_animation = (
    getattr(animation, name) for name in ("animate", "instants", "save_animation")
)

WIDTH = 192  # of a 64-pixel frame: three times
STRIP_TOP = MARGIN + CAPTION_HEIGHT + WIDTH + 2


def flash_clip(start: float = 0.8, frames: int = 16, fps: float = 10.0, size: int = 64) -> Clip:
    """Grey frames that turn white, and a tone that starts, at `start` seconds."""
    time = torch.arange(round(frames / fps * 16000)) / 16000
    waveform = 0.5 * torch.sin(2 * math.pi * 1000 * time) * (time >= start)
    pictures = torch.full((frames, 3, size, size), 60, dtype=torch.uint8)
    pictures[math.ceil(start * fps - 1e-6) :] = 255
    return Clip(pictures, waveform, fps, 16000)


def strip(picture: Image.Image) -> np.ndarray:
    """Spectrogram of the first clip of the grid, as (height, width, 3) integers."""
    box = (MARGIN, STRIP_TOP, MARGIN + WIDTH, STRIP_TOP + STRIP_HEIGHT)
    return np.asarray(picture.crop(box)).astype(int)


def playhead(picture: Image.Image) -> int:
    return int(np.flatnonzero((strip(picture) == 255).all(axis=(0, 2)))[0])


def is_lit(picture: Image.Image) -> bool:
    return picture.getpixel((MARGIN + 96, MARGIN + CAPTION_HEIGHT + 96)) == (255, 255, 255)


@pytest.mark.parametrize("start", [0.3, 0.8, 1.2])
def test_playhead_reaches_an_onset_when_its_frame_appears(start: float) -> None:
    pictures = animate([flash_clip(start)], ["a"])
    first_lit = next(picture for picture in pictures if is_lit(picture))
    x = playhead(first_lit)
    assert x == round(start / 1.6 * WIDTH)
    loudness = strip(pictures[-1]).sum(axis=2)
    band = loudness[:, -WIDTH // 8].argmax()
    heard = np.flatnonzero(loudness[band] > loudness[band].max() / 2)[0]
    assert abs(heard - x) <= 4  # 33 ms, half the spectrogram's window


def test_sound_is_bright_behind_the_playhead_and_dark_ahead() -> None:
    pictures = animate([flash_clip(0.0)], ["a"])
    whole, half = strip(pictures[-1]), strip(pictures[len(pictures) // 2])
    x = playhead(pictures[len(pictures) // 2])
    assert (half[:, :x] == whole[:, :x]).all()
    assert half[:, x + 2 :].sum() < 0.5 * whole[:, x + 2 :].sum()


@pytest.mark.parametrize("fps", [4.0, 8.0, 10.0, 24.0, 25.0, 29.97, 30.0, 60.0])
def test_pictures_are_even_and_every_picture_begins_with_its_frame(fps: float) -> None:
    clip = flash_clip(frames=16, fps=fps)
    times = np.array(instants([clip]))
    steps = np.diff(times)
    assert times[0] == 0
    assert times[-1] == clip.duration
    assert np.allclose(steps[:-1], steps[0])
    assert 1 / 40 <= steps[0] <= 1 / 16
    per_frame = 1 / fps / steps[0]
    assert np.isclose(max(per_frame, 1 / per_frame) % 1, 0)


def test_a_clip_that_is_over_stands_still_while_others_play() -> None:
    pictures = animate([flash_clip(frames=8, start=0.2), flash_clip(frames=16)], ["a", "b"])
    first = [np.asarray(picture)[:, : MARGIN + WIDTH] for picture in pictures]
    assert all((picture == first[16]).all() for picture in first[16:])
    assert not (first[15] == first[16]).all()


def test_grid_goes_row_by_row_and_captions_stay_in_their_cells() -> None:
    clips = [flash_clip()] * 3
    short, long = (animate(clips, [title, "", ""], columns=2)[0] for title in ("a", "a" * 200))
    assert short.size == (2 * (WIDTH + MARGIN) + MARGIN, 2 * (STRIP_TOP + STRIP_HEIGHT) + MARGIN)
    assert not is_lit(short.crop((0, STRIP_TOP + STRIP_HEIGHT, short.width, short.height)))
    beside = (MARGIN + WIDTH, 0, short.width, short.height)
    assert short.crop(beside).tobytes() == long.crop(beside).tobytes()
    empty = short.crop((MARGIN + WIDTH, STRIP_TOP + STRIP_HEIGHT, short.width, short.height))
    assert empty.getcolors() == [(empty.width * empty.height, (255, 255, 255))]


@pytest.mark.parametrize(
    ("size", "shown"), [(8, 160), (64, 192), (128, 128), (160, 160), (256, 128), (512, 171)]
)
def test_frames_are_shown_near_160_pixels(size: int, shown: int) -> None:
    assert animate([flash_clip(size=size)], [""])[0].width == shown + 2 * MARGIN


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng", ".png"])
@pytest.mark.parametrize(("fps", "speed"), [(10.0, 1.0), (10.0, 0.5), (30.0, 1.0)])
def test_file_plays_for_ever_at_the_rate_of_the_clips(
    suffix: str, fps: float, speed: float, tmp_path: Path
) -> None:
    clip = flash_clip(start=0.1, frames=8, fps=fps)
    path = save_animation(tmp_path / f"new/a{suffix}", [clip], ["a"], speed=speed)
    assert [file.name for file in path.parent.iterdir()] == [f"a{suffix}"]
    with Image.open(path) as stored:
        assert stored.info["loop"] == 0
        durations = []
        for index in range(getattr(stored, "n_frames", 1)):
            stored.seek(index)
            stored.load()
            durations.append(stored.info["duration"])
    assert len(durations) == len(instants([clip]))
    assert abs(sum(durations) - 1000 * (clip.duration / speed + PAUSE)) <= 5
    assert durations[-1] >= 1000 * PAUSE - 5
    assert max(durations[:-1]) - min(durations[:-1]) <= 10


@pytest.mark.parametrize(("suffix", "least_psnr"), [(".gif", 38), (".webp", 36), (".apng", 99)])
def test_eight_clips_stay_small_and_look_right(
    suffix: str, least_psnr: float, tmp_path: Path
) -> None:
    clips = [render_clip(ImpactsConfig(), index).clip for index in range(8)]
    titles = [f"clip {index}" for index in range(8)]
    path = save_animation(tmp_path / f"a{suffix}", clips, titles)
    if suffix != ".apng":
        assert path.stat().st_size < 1.5e6
    with Image.open(path) as stored:
        stored.seek(12)
        shown = np.asarray(stored.convert("RGB")).astype(float)
    error = ((shown - np.asarray(animate(clips, titles)[12])) ** 2).mean()
    assert 10 * math.log10(255**2 / max(error, 1e-6)) > least_psnr


@pytest.mark.parametrize("name", ["a.mp4", "a", "a.jpg"])
def test_another_suffix_is_a_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not one of \.gif, \.webp, \.apng, \.png"):
        save_animation(tmp_path / name, [flash_clip()], ["a"])
    assert not list(tmp_path.iterdir())


def test_a_speed_that_never_ends_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at speed 0: give one above 0"):
        save_animation(tmp_path / "a.webp", [flash_clip()], ["a"], speed=0)


def test_a_folder_in_place_of_the_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.webp").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        save_animation(tmp_path / "a.webp", [flash_clip(frames=2)], ["a"])
    assert [file.name for file in tmp_path.iterdir()] == ["a.webp"]

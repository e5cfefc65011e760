"""The model of the Freedoom world in this repository: whole, small, licensed, and its shots are heard."""

from pathlib import Path

import pytest
import torch

from mmldm.media.clip import Clip
from mmldm.pipelines.published import published
from mmldm.pipelines.sounding_video import SoundingVideoPipeline
from mmldm.worlds.freedoom.shots import detect_flashes

pytestmark = pytest.mark.slow

CLIPS = 24
NEAR = 0.06
"""Seconds, a frame, by which a flash may be seen later than its bang is heard."""
SPAN = 0.1
"""Seconds before and after that, whose loudness is compared."""


@pytest.fixture(scope="module")
def folder() -> Path:
    found = published("freedoom")
    assert found is not None
    return found


def test_it_is_small_and_names_no_path_of_the_machine_that_made_it(folder: Path) -> None:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 25e6
    for file in files:
        if file.suffix == ".json":
            text = file.read_text()
            assert str(Path.home()) not in text and "/tmp" not in text and "/work" not in text


def test_the_licence_of_what_it_was_trained_on_lies_beside_it_and_is_named(folder: Path) -> None:
    licence = (folder / "LICENSE-freedoom.txt").read_text()
    assert "Contributors to the Freedoom project" in licence
    assert "THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS" in licence
    card = (folder / "README.md").read_text()
    assert "LICENSE-freedoom.txt" in card and "BSD" in card


def rises(clip: Clip, sound: torch.Tensor) -> list[float]:
    """How much louder, in dB, a sound (S,) is after each flash of a clip than before it."""
    near, span = (round(seconds * clip.sample_rate) for seconds in (NEAR, SPAN))
    found = []
    for time in detect_flashes(clip.frames, clip.fps):
        at = round(time * clip.sample_rate)
        before, after = sound[max(0, at - near - span) : max(0, at - near)], sound[at:][:span]
        if min(len(before), len(after)) >= span // 2:
            powers = (after.square().mean() + 1e-6) / (before.square().mean() + 1e-6)
            found.append(float(10 * powers.log10()))
    return found


def test_joint_samples_get_loud_where_they_flash(folder: Path) -> None:
    pipeline = SoundingVideoPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    # In this class all is silent but shots and what is picked up.
    clips = pipeline(num_samples=CLIPS, seed=1000, class_labels="basic").clips
    own = [rise for clip in clips for rise in rises(clip, clip.waveform)]
    others = [
        rise
        for clip, other in zip(clips, clips[1:] + clips[:1], strict=True)
        for rise in rises(clip, other.waveform)
    ]
    assert len(own) >= CLIPS // 2
    assert sum(rise > 20 for rise in own) > 0.6 * len(own)
    assert sum(rise > 20 for rise in others) < 0.3 * len(others)

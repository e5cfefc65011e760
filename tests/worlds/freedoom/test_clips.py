"""A clip of the game is a function of (config, index), with its true events; folders are whole."""

import contextlib
import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch

from mmldm.errors import UserError
from mmldm.media.probe import probe
from mmldm.worlds.freedoom import game as game_module
from mmldm.worlds.freedoom.clips import (
    FreedoomConfig,
    _drawn,
    render_clip,
    scenario_of,
    synthesize,
    true_events,
)
from mmldm.worlds.freedoom.game import STILL, Game, require_vizdoom
from mmldm.worlds.freedoom.scenarios import SCENARIOS

pytestmark = pytest.mark.slow


def tiny(**changes):
    return FreedoomConfig(**{"width": 32, "height": 24, "num_frames": 18, **changes})


@pytest.fixture(scope="module")
def clips(playable):
    """Four seconds of each scenario."""
    config = tiny(num_frames=70, seed=3)
    return [render_clip(config, index) for index in range(len(SCENARIOS))]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"scenarios": ("basic", "e1m1")}, "there is no scenario 'e1m1'; those there are: defend"),
        ({"scenarios": ()}, "one or more"),
        ({"fps": 30.0}, "35 or 17.5, not 30"),
        ({"sample_rate": 16000}, "sample_rate"),
        ({"gravity": 1}, "gravity"),
    ],
)
def test_impossible_clips_are_refused(wrong, named):
    with pytest.raises(pydantic.ValidationError, match=named):
        FreedoomConfig(**wrong)


@pytest.mark.parametrize(
    ("width", "height", "drawn", "columns"),
    [
        (128, 96, (256, 192), (0, 256)),
        (128, 128, (400, 300), (50, 350)),
        (256, 144, (512, 384), (0, 512)),
        (800, 600, (1600, 1200), (0, 1600)),
    ],
)
def test_picture_is_drawn_twice_as_large_and_cut_in_the_middle(width, height, drawn, columns):
    size, cut = _drawn(FreedoomConfig(width=width, height=height))
    assert size == drawn and (cut.start, cut.stop) == columns


def test_same_seed_and_index_give_the_same_clip(clips):
    config = tiny(num_frames=70, seed=3)
    for index in (2, 0):
        again = render_clip(config, index)
        assert torch.equal(again.frames, clips[index].frames)
        assert torch.equal(again.sound, clips[index].sound)
        assert again.truth == clips[index].truth
    other = render_clip(tiny(num_frames=70, seed=4), 0)
    assert not torch.equal(other.sound, clips[0].sound)


def test_clip_has_the_lengths_of_its_config(clips):
    for index, clip in enumerate(clips):
        assert clip.frames.shape == (70, 3, 24, 32) and clip.frames.dtype == torch.uint8
        assert clip.sound.shape == (2, 4 * 22050)
        assert len(clip.truth["angle"]) == 70
        assert clip.truth["scenario"] == scenario_of(tiny(), index)
    fast = render_clip(tiny(num_frames=9, fps=35.0, sample_rate=44100), 0)
    assert fast.frames.shape[0] == 9 and fast.sound.shape == (2, 9 * 1260)


def test_both_rates_show_and_sound_the_same(playable):
    slow, fast = render_clip(tiny(num_frames=20), 1), render_clip(tiny(num_frames=40, fps=35.0), 1)
    assert torch.equal(slow.frames, fast.frames[::2])
    assert torch.equal(slow.sound, fast.sound)
    assert slow.truth["events"] == fast.truth["events"]


def test_bang_and_flash_begin_in_the_tic_of_the_shot(clips):
    shots = 0
    for clip in clips:
        cuts = [event["time"] for event in clip.truth["events"] if event["kind"] == "episode"]
        for event in clip.truth["events"]:
            if event["kind"] != "shot" or any(0 < cut - event["time"] < 0.1 for cut in cuts):
                continue
            if event["time"] > 3.8:
                continue
            shots += 1
            at = round(event["time"] * 22050)
            before, after = clip.sound[:, at - 600 : at], clip.sound[:, at : at + 600]
            assert after.square().mean().sqrt() > 0.25
            assert after.square().mean() > 1.3 * before.square().mean()
            first = -(-round(event["time"] * 35) // 2)
            bright = (clip.frames[:, :, 10:18, 12:20].amin(1) > 170).sum((1, 2))
            assert bright[first : first + 3].min() > bright[first - 1]
    assert shots > 5


def test_events_are_in_order_and_of_known_kinds(clips):
    kinds = set()
    for clip in clips:
        times = [event["time"] for event in clip.truth["events"]]
        assert times == sorted(times) and times[0] >= 0 and times[-1] < 4
        kinds |= {event["kind"] for event in clip.truth["events"]}
        for runs in clip.truth["seen"].values():
            edges = [edge for run in runs for edge in run]
            assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] < 70
    assert {"shot", "hit", "kill"} <= kinds
    assert kinds <= {"shot", "hit", "kill", "damage", "pick-up", "episode"}


def test_episode_that_ends_is_followed_by_the_next_and_the_cut_is_no_click(playable):
    config = tiny(num_frames=175, seed=1, scenarios=("basic",))
    for index in range(8):
        clip = render_clip(config, index)
        cuts = [event for event in clip.truth["events"] if event["kind"] == "episode"]
        for cut in cuts:
            at = round(cut["time"] * 22050)
            assert clip.sound[:, at - 2 : at + 2].abs().max() < 0.02
            assert cut["lost"] is False
        if cuts:
            break
    assert cuts


def test_folder_holds_clips_by_scenario_with_stereo_and_their_ground_truth(playable, tmp_path):
    config, calls = tiny(), []
    assert synthesize(tmp_path / "a", config, 4, 1, lambda *done: calls.append(done)) == 4
    assert calls == [(n, 4) for n in range(1, 5)]
    paths = sorted((tmp_path / "a").glob("*/*.mp4"))
    assert {path.parent.name for path in paths} == set(SCENARIOS)
    for path in paths:
        truth = json.loads(path.with_suffix(".json").read_text())
        assert truth == render_clip(config, truth["index"]).truth
        info = probe(path)
        assert (info.width, info.height, info.sample_rate, info.channels) == (32, 24, 22050, 2)
        assert info.fps == pytest.approx(17.5) and info.duration == pytest.approx(
            18 / 17.5, abs=0.06
        )
    # More clips extend the folder, by several processes what one would write; whole ones stay.
    stamps = {path: path.stat().st_mtime_ns for path in paths[1:]}
    paths[0].unlink()
    assert synthesize(tmp_path / "a", config, 6, workers=2) == 3
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    synthesize(tmp_path / "b", config, 6, workers=1)
    for path in (tmp_path / "b").rglob("*.*"):
        twin = tmp_path / "a" / path.relative_to(tmp_path / "b")
        assert twin.read_bytes() == path.read_bytes()
    with pytest.raises(UserError, match=r"another configuration \(seed differ\)"):
        synthesize(tmp_path / "a", tiny(seed=1), 6, workers=1)


def test_true_events_of_a_window_are_on_its_own_clock(playable, tmp_path):
    synthesize(tmp_path, tiny(num_frames=105), 1, workers=1)
    (path,) = tmp_path.glob("*/*.mp4")
    every = true_events(path, "shot")
    inside = every[(every >= 2) & (every < 5)]
    assert 0 < len(inside) < len(every)
    np.testing.assert_allclose(true_events(path, "shot", 2.0, 3.0), inside - 2)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(UserError, match="no ground truth of a freedoom clip"):
        true_events(path, "shot")


def test_game_that_dies_is_a_sentence(playable):
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("this system does not say which processes this one has begun")
    with Game("basic", 1, (160, 120), 22050) as game:
        begun = [pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
        games = [pid for pid in begun if Path(f"/proc/{pid}/comm").read_text().strip() == "vizdoom"]
        os.kill(int(games[0]), signal.SIGKILL)
        with pytest.raises(UserError, match="the game of the Freedoom world failed"):
            for _ in range(1000):
                game.act(STILL)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups here")
def test_killed_worker_is_a_sentence_and_leaves_no_game(playable, tmp_path):
    before = {process.pid for process in multiprocessing.active_children()}
    struck: list[int] = []

    def strike(done, total):
        if not struck:
            workers = {process.pid for process in multiprocessing.active_children()} - before
            struck.extend(workers)
            os.kill(struck[0], signal.SIGKILL)

    with pytest.raises(UserError, match="a worker process died while writing clips"):
        synthesize(tmp_path, tiny(num_frames=70), 40, workers=2, progress=strike)
    assert len(struck) == 2
    for pid in struck:
        wait_for_the_end_of_group(pid)
    assert 0 < len(list(tmp_path.glob("*/*.json"))) < 40


def wait_for_the_end_of_group(pid):
    """Returns when no process of a group is left but such as wait to be reaped."""
    living = True
    while living:
        living = False
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
                living |= int(group) == pid and state != "Z"


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(game_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mmldm\[worlds\]'"):
        require_vizdoom()


def test_nothing_is_left_where_the_command_was_given(playable, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    render_clip(tiny(num_frames=2), 0)
    assert list(tmp_path.iterdir()) == []

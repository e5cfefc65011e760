"""Windows of files: one exact clock for picture and sound, upright, square, whatever the codec."""

from __future__ import annotations

import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from mmldm.errors import MediaError
from mmldm.media import reader
from mmldm.media.clip import Clip
from mmldm.media.probe import probe
from mmldm.media.reader import read_audio, read_clip, read_frames
from mmldm.types import ClipSpec

pytestmark = pytest.mark.slow

Writer = Callable[..., Path]
FINE = ClipSpec(
    num_frames=80, fps=50.0, height=16, width=16
)  # as the files where they are constant
VARIABLE = "variable frame rate"
FAST = {"deadline": "realtime", "cpu-used": "8"}
FILES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "h264_aac.mp4": ("libx264", "aac", {}),
    "h264_aac_vfr.mp4": ("libx264", "aac", {"times": VARIABLE}),
    "h264_aac_8khz.mp4": ("libx264", "aac", {"rate": 8000}),
    "late_sound.mp4": ("libx264", "aac", {"sound_starts": 0.3}),
    "starts_at_100_s.mov": ("libx264", "aac", {"shift": 100.0}),
    "mpeg4_5.1.mp4": ("mpeg4", "aac", {"rate": 44100, "layout": "5.1"}),
    "h264_mp3.mkv": ("libx264", "mp3", {"rate": 44100, "layout": "stereo"}),
    "h264_aac.ts": ("libx264", "aac", {}),
    "mpeg2_mp2.mpg": ("mpeg2video", "mp2", {"size": (176, 144), "options": {"b": "6M"}}),
    "vp8_vorbis.webm": ("libvpx", "vorbis", {"layout": "stereo", "options": FAST}),
    "vp9_opus_vfr.webm": ("libvpx-vp9", "libopus", {"times": VARIABLE, "options": FAST}),
    "mjpeg_pcm.avi": ("mjpeg", "pcm_s16le", {}),
    "mpeg4_b_frames.avi": ("mpeg4", "pcm_s16le", {"options": {"bf": "2"}}),
    "mjpeg_pcm_vfr.mkv": ("mjpeg", "pcm_s16le", {"rate": 44100, "times": VARIABLE}),
    "h264_flac_96khz_7.1.mkv": ("libx264", "flac", {"rate": 96000, "layout": "7.1"}),
}


def variable_times(events: tuple[float, ...]) -> np.ndarray:
    """About 34 frames a second at random times, with one at each edge of a flash."""
    edges = [0.0, *events, *(event + 0.1 for event in events)]
    random = np.random.default_rng(0).uniform(0, 6, 200)
    return np.unique(np.round(np.concatenate([random, edges]), 3))


def rises(loud: np.ndarray, rate: float) -> np.ndarray:
    return (np.flatnonzero(loud[1:] & ~loud[:-1]) + 1) / rate


def flashes_and_tones(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Seconds at which the clip becomes light, and at which it becomes loud."""
    light = clip.frames.float().mean(dim=(1, 2, 3)).numpy() > 128
    loud = np.convolve(np.abs(clip.waveform.numpy()) > 0.1, np.ones(160))[: len(clip.waveform)] > 0
    return rises(light, clip.fps), rises(loud, clip.sample_rate)


@pytest.mark.parametrize("name", FILES)
def test_flash_and_click_are_one_instant(
    name: str, tmp_path: Path, write_flash_click: Writer, events: tuple[float, ...]
) -> None:
    video_codec, audio_codec, options = FILES[name]
    if options.get("times") is VARIABLE:
        options = {**options, "times": variable_times(events)}
    path = write_flash_click(tmp_path / name, video_codec, audio_codec, **options)
    # AAC's run-in is sound, too: it starts 21 ms before what was encoded.
    late = options.get("sound_starts", 0.0)
    variable = options.get("times") is not None
    for start in (0.0, 0.9, 3.3, 4.3 - late):  # the last two are sought
        expected = [at for event in events if 0 < (at := event - start - late) < FINE.duration]
        flashes, tones = flashes_and_tones(read_clip(path, start, FINE))
        assert len(flashes) == len(tones) == len(expected)
        # At variable rates the nearest picture changes up to half a frame from the flash.
        assert np.abs(flashes - tones).max() < (0.0265 if variable else 0.0065)
        assert np.abs(flashes - expected).max() < (0.0265 if variable or late else 0.0135)


def test_frame_k_is_the_last_one_shown_by_its_time(tmp_path: Path, events: tuple) -> None:
    shown_at = np.array([0.0, 0.03, 0.1, 0.45, 0.46, 0.9, 1.1, 1.11, 1.12, 1.5])
    path = tmp_path / "levels.mkv"
    with av.open(str(path), "w") as output:
        video = output.add_stream("ffv1", rate=50)
        video.width = video.height = 16
        video.pix_fmt = "yuv444p"
        video.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(shown_at):
            grey = np.full((16, 16, 3), 20 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format="yuv444p")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    spec = ClipSpec(num_frames=15, fps=10.0, height=16, width=16)
    levels = read_frames(path, spec).float().mean(dim=(1, 2, 3))
    for k, level in enumerate(levels):
        latest = np.flatnonzero(shown_at <= k / 10 + 1e-6)[-1]
        assert abs(level.item() - 20 * latest) < 3


def test_seeking_gives_the_same_window(
    tmp_path: Path, write_flash_click: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_flash_click(tmp_path / "a.mp4", "libx264", "aac", options={"g": "25"})
    spec = ClipSpec(height=16, width=16)
    sought = read_clip(path, 3.51, spec)
    monkeypatch.setattr(reader, "SEEK_FROM", 1e9)
    decoded = read_clip(path, 3.51, spec)
    assert torch.equal(sought.frames, decoded.frames)
    assert torch.allclose(sought.waveform, decoded.waveform, atol=1e-4)


def test_late_sound_is_not_shifted_both_are_counted_from_it(
    tmp_path: Path, write_flash_click: Writer
) -> None:
    path = write_flash_click(tmp_path / "a.mp4", "libx264", "aac", sound_starts=1.0)
    flashes, tones = flashes_and_tones(read_clip(path, 0.0, ClipSpec(height=16, width=16)))
    # With AAC's run-in, sound starts at .979 s and the nearest picture is at .98 s; events are at 1.28 and
    # 2.12 s, and this window has a frame every .1 s.
    assert flashes == pytest.approx([0.3, 1.2], abs=1e-6)
    assert tones == pytest.approx([0.3, 1.14], abs=0.002)


def write_picture(path: Path, picture: np.ndarray, turn: int = 0, aspect: int = 1) -> Path:
    """Half a second of one still RGB picture (H,W,3) with rotation and aspect metadata."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=10, options={"crf": "1"})
        video.width, video.height, video.pix_fmt = picture.shape[1], picture.shape[0], "yuv420p"
        video.codec_context.sample_aspect_ratio = Fraction(aspect)
        if turn:
            video.set_display_rotation(turn)
        for _ in range(5):
            output.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(video.encode(None))
    return path


def corners(height: int, width: int) -> np.ndarray:
    """Red top left, green top right, blue bottom left, white bottom right."""
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[: height // 2, : width // 2] = (255, 0, 0)
    picture[: height // 2, width // 2 :] = (0, 255, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    return picture


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_rotated_video_comes_out_upright(tmp_path: Path, turn: int) -> None:
    # The display matrix turns counter-clockwise: what is stored is the picture turned back.
    stored = np.rot90(corners(64, 64), -turn // 90)
    path = write_picture(tmp_path / "a.mp4", np.ascontiguousarray(stored), turn)
    spec = ClipSpec(num_frames=4, fps=10.0, height=32, width=32)
    frame = read_frames(path, spec)[0].float()
    expected = torch.from_numpy(corners(32, 32)).permute(2, 0, 1).float()
    assert (frame - expected).abs().mean() < 12


def test_turned_portrait_keeps_its_shape(shared: Path) -> None:
    info = probe(shared / "nasty/real/rotate90_5.1.mp4")
    assert (info.width, info.height) == (1080, 1920)


@pytest.mark.parametrize(("height", "width", "aspect"), [(32, 96, 1), (96, 32, 1), (32, 48, 2)])
def test_cover_crop_keeps_the_centre_and_the_aspect(
    tmp_path: Path, height: int, width: int, aspect: int
) -> None:
    """A disc in the middle of the displayed picture stays a disc in the middle."""
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2 + 0.5) ** 2 + ((x - width / 2 + 0.5) * aspect) ** 2 < 12**2
    picture = np.where(inside[..., None], 255, 0).repeat(3, axis=2).astype(np.uint8)
    path = write_picture(tmp_path / "a.mp4", picture, aspect=aspect)
    spec = ClipSpec(num_frames=4, fps=10.0, height=32, width=32)
    light = read_frames(path, spec)[0].float().mean(dim=0) > 128
    rows, columns = light.any(dim=1).nonzero(), light.any(dim=0).nonzero()
    assert abs((rows.min() + rows.max()).item() - 31) <= 1
    assert abs((columns.min() + columns.max()).item() - 31) <= 1
    assert abs((rows.max() - rows.min()).item() - (columns.max() - columns.min()).item()) <= 2


@pytest.mark.parametrize("pixel_range", ["tv", "pc"])
def test_full_and_limited_range_are_read_as_the_same_colour(
    tmp_path: Path, pixel_range: str
) -> None:
    path = tmp_path / "a.mp4"
    colour = np.full((32, 32, 3), (200, 60, 30), np.uint8)
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=10, options={"crf": "1"})
        video.width = video.height = 32
        video.pix_fmt = "yuvj420p" if pixel_range == "pc" else "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(colour, format="rgb24")
            output.mux(video.encode(frame.reformat(format=video.pix_fmt)))
        output.mux(video.encode(None))
    spec = ClipSpec(num_frames=4, fps=10.0, height=16, width=16)
    read = read_frames(path, spec).float().mean(dim=(0, 2, 3))
    assert torch.allclose(read, torch.tensor([200.0, 60.0, 30.0]), atol=4)


def test_all_channels_but_the_subwoofer_reach_the_mono_mix(tmp_path: Path) -> None:
    """5.1: each speaker in turn plays for a second; the order is L R C LFE then surrounds."""
    path, rate = tmp_path / "a.mkv", 16000
    spec = ClipSpec(num_frames=60, fps=10.0, height=16, width=16)
    with av.open(str(path), "w") as output:
        audio = output.add_stream("pcm_s16le", rate=rate, layout="5.1")
        samples = np.zeros((6 * rate, 6), np.int16)
        for speaker in range(6):
            samples[speaker * rate : (speaker + 1) * rate, speaker] = 16384
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="5.1")
        frame.sample_rate = rate
        output.mux(audio.encode(frame))
        output.mux(audio.encode(None))
    levels = read_audio(path, spec).view(6, rate)[:, 2000:-2000].mean(dim=1)
    # ITU-R BS.775: 1, 1, 1.414, 0 and 0.707 twice, scaled to sum to 1, of half of full scale.
    expected = torch.tensor([1, 1, 1.414, 0, 0.707, 0.707]) / 4.828 / 2
    assert torch.allclose(levels, expected, atol=1e-5)


def test_resampled_tone_keeps_its_pitch_level_and_place(tmp_path: Path) -> None:
    path, rate = tmp_path / "tone.wav", 44100
    time = np.arange(2 * rate) / rate
    samples = (16384 * np.sin(2 * np.pi * 440 * time)).astype("<i2")
    with wave.open(str(path), "wb") as output:
        output.setparams((1, 2, rate, 0, "NONE", ""))
        output.writeframes(samples.tobytes())
    spec = ClipSpec()
    read = read_audio(path, spec, start=0.25).numpy()
    expected = 0.5 * np.sin(2 * np.pi * 440 * (0.25 + np.arange(spec.num_samples) / 16000))
    assert np.abs(read - expected).max() < 0.005


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".flac", ".m4a", ".ogg"])
def test_audio_files_are_read_and_continued_with_silence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    codec = {".wav": "pcm_s16le", ".mp3": "mp3", ".flac": "flac", ".m4a": "aac", ".ogg": "libopus"}
    with av.open(str(path), "w") as output:
        audio = output.add_stream(codec[suffix], rate=48000, layout="mono")
        tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(48000) / 48000).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(tone[np.newaxis], format="flt", layout="mono")
        frame.sample_rate = 48000
        resampler = av.AudioResampler(
            audio.format.name, "mono", 48000, audio.codec_context.frame_size or 1024
        )
        for block in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(audio.encode(block))
    waveform = read_audio(path, ClipSpec())
    assert waveform.shape == (25600,)
    assert waveform[4000:12000].pow(2).mean().sqrt().item() == pytest.approx(0.3535, rel=0.1)
    assert waveform[int(1.1 * 16000) :].abs().max() < 1e-3


def test_loud_decoder_output_is_clipped_to_one(shared: Path) -> None:
    clip = read_clip(shared / "nasty/made/clipped_square.mp4", 0.5, ClipSpec())
    assert clip.waveform.abs().max() <= 1
    assert clip.waveform.isfinite().all()


def test_a_window_beyond_the_end_is_too_short(tmp_path: Path, write_flash_click: Writer) -> None:
    path = write_flash_click(tmp_path / "a.mp4", "libx264", "aac")
    for start in (4.6, 8.0):
        with pytest.raises(MediaError, match="a.mp4") as caught:
            read_clip(path, start, ClipSpec(height=16, width=16))
        assert caught.value.reason == "too_short"


def test_probe_measures_what_the_header_claims_falsely(shared: Path) -> None:
    info = probe(shared / "nasty/made/duration_lies_huge.mp4")
    assert info.duration == pytest.approx(3.0, abs=0.02)
    assert info.num_frames == 90


def test_probe_reports_the_streams(tmp_path: Path, write_flash_click: Writer) -> None:
    path = write_flash_click(
        tmp_path / "a.mkv", "mpeg4", "flac", rate=96000, layout="7.1", sound_starts=1.0
    )
    info = probe(path)
    assert (info.width, info.height, info.num_frames, info.fps) == (64, 48, 300, pytest.approx(50))
    assert (info.sample_rate, info.channels) == (96000, 8)
    assert (info.video_codec, info.audio_codec) == ("mpeg4", "flac")
    # Counted from where both have begun.
    assert info.duration == pytest.approx(5.0, abs=0.02)
    # Four tones of 0.1 s are left in 5 s: the first went with the first second.
    assert info.silent_share == pytest.approx(1 - 0.4 / 5, abs=0.01)
    assert info.notes == (
        "sound starts 1.00 s late: both are counted from there",
        "92% of its sound is exact zeros; listen whether it is whole",
    )

"""Films written in pieces; what was given beside what was made: the original, and in time with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mmldm.errors import MediaError, UserError
from mmldm.media.clip import Clip
from mmldm.media.given import Given
from mmldm.media.reader import read_audio, read_clip, read_frames, read_windows
from mmldm.media.writer import FilmWriter
from mmldm.types import ClipSpec

from .numbered import HEIGHT, WIDTH, numbers, sound_at, write_numbered
from .test_reader import flashes_and_tones, variable_times
from .test_writer import make_clip

pytestmark = pytest.mark.slow

Writer = Callable[..., Path]
RATE = 16000
FINE = ClipSpec(num_frames=200, fps=50.0, height=48, width=64)
STRIPED = ClipSpec(num_frames=25, fps=10.0, height=HEIGHT, width=WIDTH)
SOUNDS = {
    "a.wav": ("pcm_s16le", 96000, "stereo"),
    "b.wav": ("pcm_f32le", 192000, "stereo"),
    "c.wav": ("pcm_s16le", 48000, "5.1"),
    "d.wav": ("pcm_s16le", 48000, "7.1"),
    "a.flac": ("flac", 44100, "stereo"),
    "a.mp3": ("mp3", 44100, "stereo"),
    "a.ogg": ("libopus", 48000, "stereo"),
    "b.ogg": ("vorbis", 44100, "stereo"),
    "a.m4a": ("aac", 48000, "stereo"),
    "a.aac": ("aac", 44100, "mono"),
    "a.mkv": ("flac", 44100, "stereo"),
    "b.mkv": ("aac", 48000, "stereo"),
    "a.webm": ("libopus", 48000, "stereo"),
}


def pieces(clip: Clip, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The clip in pieces of so many frames (n,3,H,W), each with its sound (m,)."""
    step = round(length * clip.sample_rate / clip.fps)
    return list(zip(clip.frames.split(length), clip.waveform.split(step), strict=True))


def write_sound_file(path: Path, codec: str, rate: int, layout: str, seconds: float = 3.5) -> Path:
    """The sound of `numbered`, in every channel, from its zero on."""
    with av.open(str(path), "w") as output:
        audio = output.add_stream(codec, rate=rate, layout=layout, options={"strict": "-2"})
        channels = len(audio.layout.channels)
        samples = sound_at(np.arange(round(seconds * rate)) / rate).astype(np.float32)
        packed = np.repeat(samples, channels)[np.newaxis]
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(audio.format.name, layout, rate, audio.frame_size or 1024)
        for block in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(audio.encode(block))
    return path


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """One of `SOUNDS`, written once."""
    folder = tmp_path_factory.mktemp("sounds")

    def path(name: str) -> Path:
        found = folder / name
        return found if found.exists() else write_sound_file(found, *SOUNDS[name])

    return path


def shift(heard: torch.Tensor, original: torch.Tensor) -> float:
    """Seconds by which a sound (S,) is later than another (S,), both at RATE, of which it is a copy."""
    first, second = (np.fft.rfft(x.double().numpy(), 2 * len(x)) for x in (heard, original))
    products = np.fft.irfft(first * second.conj())
    at = int(np.argmax(products))
    assert products[at] > 0.95 * heard.norm().item() * original.norm().item()
    return (at if at < len(heard) else at - 2 * len(heard)) / RATE


def streams(path: Path) -> dict[str, tuple[str, float]]:
    """Codec and seconds of each stream."""
    with av.open(str(path)) as file:
        return {
            s.type: (s.codec_context.codec.canonical_name, float(s.duration * s.time_base))
            for s in file.streams
        }


def packets(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as file:
        (stream,) = (s for s in file.streams if s.type == kind)
        return [bytes(packet) for packet in file.demux(stream) if packet.size]


@pytest.mark.parametrize("length", [1, 7, 16, 33])
def test_a_film_in_pieces_is_the_file_of_the_whole(tmp_path: Path, length: int) -> None:
    clip = make_clip(frames=95, width=51, sample_rate=44100)
    whole = clip.save(tmp_path / "whole.mp4")
    with FilmWriter(tmp_path / "film.mp4", fps=clip.fps, sample_rate=clip.sample_rate) as film:
        for frames, waveform in pieces(clip, length):
            film.add(frames, waveform)
    assert (tmp_path / "film.mp4").read_bytes() == whole.read_bytes()


def test_a_long_film_has_picture_and_sound_close_together(tmp_path: Path) -> None:
    clip = make_clip(frames=400)
    places: dict[str, list] = {"video": [], "audio": []}
    with av.open(str(clip.save(tmp_path / "a.mp4"))) as file:
        for packet in file.demux():
            if packet.size:
                places[packet.stream.type].append((packet.pos, packet.pts * packet.time_base))
    for position, time in places["video"]:
        nearest = min(places["audio"], key=lambda place: abs(place[0] - position))
        assert abs(nearest[1] - time) < 3


def test_a_film_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    clip = make_clip()
    with pytest.raises(KeyboardInterrupt), FilmWriter(path, fps=10, sample_rate=RATE) as film:
        film.add(clip.frames, clip.waveform)
        raise KeyboardInterrupt
    loud = clip.waveform.clone()
    loud[100] = torch.nan
    with (
        pytest.raises(UserError, match="NaN"),
        FilmWriter(path, fps=10, sample_rate=RATE) as film,
    ):
        film.add(clip.frames, loud)
    with pytest.raises(UserError, match="no piece"), FilmWriter(path, fps=10, sample_rate=RATE):
        pass
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_a_killed_film_leaves_no_file_under_its_name(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, torch\n"
        "from mmldm.media.writer import FilmWriter\n"
        "with FilmWriter(sys.argv[1], fps=10, sample_rate=16000) as film:\n"
        "    film.add(torch.zeros(50, 3, 32, 32, dtype=torch.uint8), torch.zeros(80000))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    target = tmp_path / "a.mp4"
    result = subprocess.run([sys.executable, "-c", code, str(target)], env=environment)
    assert result.returncode == -signal.SIGKILL
    assert not target.exists()


def film_with_sound(path: Path, given: Given, seconds: float = 2.0) -> FilmWriter:
    """A film of grey frames beside a given sound."""
    with FilmWriter(path, fps=25, given=given) as film:
        for _ in range(round(seconds)):
            film.add(torch.full((25, 3, 32, 32), 90, dtype=torch.uint8))
    return film


@pytest.mark.parametrize("start", [0.0, 1.2345, 1.9])
@pytest.mark.parametrize("name", SOUNDS)
def test_given_sound_keeps_channels_rate_length_and_place(
    tmp_path: Path, sound_file: Callable[[str], Path], name: str, start: float
) -> None:
    _, rate, layout = SOUNDS[name]
    path = sound_file(name)
    out = tmp_path / "out.mp4"
    (said, *_) = film_with_sound(out, Given("audio", path, start, 1.5)).said
    with av.open(str(out)) as file:
        (audio,) = file.streams.audio
        channels = len(av.AudioLayout(layout).channels)
        assert audio.codec_context.channels == channels
        assert audio.rate == min(rate, 96000)
        assert float(audio.duration * audio.time_base) == pytest.approx(1.5, abs=0.001)
    assert f"{path}" in said and ("copied" in said or "encoded once" in said)
    # Raw AAC and others say how much of their beginning is no sound; so both are asked.
    spec = ClipSpec(num_frames=14, fps=10)
    original = read_audio(path, spec, start)
    assert abs(shift(read_audio(out, spec), original)) < 0.001
    # Blocks of .1 s whose times are whole milliseconds say to half of one where they lie.
    most = 0.5 if name == "a.mkv" else 0.01
    assert (read_audio(out, spec) - original).pow(2).mean() < most * original.pow(2).mean()


@pytest.mark.parametrize("name", ["a.mp3", "a.ogg", "a.m4a", "b.mkv", "a.webm", "a.flac"])
def test_sound_that_players_take_is_copied(
    tmp_path: Path, sound_file: Callable[[str], Path], name: str
) -> None:
    path = sound_file(name)
    film = film_with_sound(tmp_path / "out.mp4", Given("audio", path))
    assert packets(tmp_path / "out.mp4", "audio") == packets(path, "audio")
    assert "copied as it is" in film.said[0]


def test_sound_ends_with_its_file_and_generated_picture_goes_on(tmp_path: Path) -> None:
    path = write_sound_file(tmp_path / "a.wav", "pcm_s16le", 44100, "mono", seconds=0.05)
    film_with_sound(tmp_path / "out.mp4", Given("audio", path))
    found = streams(tmp_path / "out.mp4")
    assert found["video"][1] == pytest.approx(2.0)
    assert found["audio"][1] == pytest.approx(0.05, abs=0.001)


def test_given_sound_with_a_gap_keeps_what_follows_in_its_place(tmp_path: Path) -> None:
    from ..sound_files import write_sound

    times = np.arange(250) * 1024 / 32000
    times[100:] += 0.4
    tone = np.zeros((1, 250 * 1024), np.float32)
    tone[0, 150 * 1024 :: 4096] = 0.9
    path = write_sound(
        tmp_path / "a.mkv", tone, rate=32000, codec="pcm_s16le", block=1024, times=times
    )
    film_with_sound(tmp_path / "out.mp4", Given("audio", path))
    spec = ClipSpec(num_frames=70, fps=10)
    assert abs(shift(read_audio(tmp_path / "out.mp4", spec), read_audio(path, spec))) < 0.001


PICTURES = {
    "regular.mp4": ("libx264", np.arange(144) / 24, {}),
    "open_gop.mov": ("libx264", np.arange(144) / 24, {"x264-params": "open-gop=1", "bf": "3"}),
    "variable.mp4": ("libx264", "variable", {}),
    "variable.mkv": ("libx264", "variable", {}),
    "stream.ts": ("libx264", np.arange(144) / 24, {}),
    "b_frames.avi": ("mpeg4", np.arange(144) / 24, {"bf": "2"}),
    "late.mp4": ("libx264", np.arange(144) / 24, {}),
}


def variable() -> np.ndarray:
    """About 20 frames a second at irregular times of whole milliseconds."""
    times = np.cumsum(np.random.default_rng(0).integers(30, 70, 120)) / 1000
    return times - times[0]


@pytest.mark.parametrize("start", [0.0, 1.0, 2.31])
@pytest.mark.parametrize("name", PICTURES)
def test_given_picture_keeps_frames_times_and_place(
    tmp_path: Path, name: str, start: float
) -> None:
    codec, times, options = PICTURES[name]
    times = variable() if isinstance(times, str) else times
    path = write_numbered(
        tmp_path / name,
        times,
        seconds=6,
        codec=codec,
        options=options or {"crf": "10", "g": "24", "keyint_min": "24"},
        sound_starts=0.7 if name == "late.mp4" else 0.0,
        clock=Fraction(1, 24) if name.endswith("avi") else Fraction(1, 90_000),
    )
    # Where the film begins is what the readers say, and the sound that is made is that of there.
    asked = read_windows(path, [start], STRIPED)
    begins = asked.starts.item()
    made = torch.from_numpy(read_audio(path, STRIPED, begins).numpy())
    out = tmp_path / "out.mp4"
    with FilmWriter(out, sample_rate=RATE, given=Given("video", path, begins, 3.0)) as film:
        for part in made.split(5000):
            film.add(waveform=part)
    again = read_clip(out, 0.0, STRIPED)
    original = numbers(asked.frames[asked.indices[0]])
    # The nominal frame is measured on other packets: at variable rates a tie may fall to the neighbour.
    assert np.abs(numbers(again.frames) - original).max() <= (1 if "variable" in name else 0)
    assert abs(shift(again.waveform, made)) < 0.002
    # Frames that are needed to decode the last ones cannot be cut off.
    assert streams(out)["video"][1] == pytest.approx(3.0, abs=0.2)
    assert ("copied" in film.said[0]) or ("encoded once" in film.said[0])


def test_a_whole_picture_is_copied_packet_by_packet(tmp_path: Path) -> None:
    for name in ("regular.mp4", "open_gop.mov", "variable.mkv"):
        codec, times, options = PICTURES[name]
        times = variable() if isinstance(times, str) else times
        path = write_numbered(
            tmp_path / name, times, seconds=6, codec=codec, options=options or None
        )
        out = tmp_path / "out.mp4"
        with FilmWriter(out, sample_rate=RATE, given=Given("video", path)) as film:
            film.add(waveform=torch.zeros(6 * RATE))
        assert packets(out, "video") == packets(path, "video")
        assert "copied as it is" in film.said[0]
        assert streams(out)["video"][1] == pytest.approx(streams_end(path), abs=0.002)


def streams_end(path: Path) -> float:
    """When the last picture is over, in seconds."""
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    return frames[-1].time + frames[-1].time - frames[-2].time


def write_portrait(path: Path) -> Path:
    """24 frames a second, stored lying and shown turned: light above and dark below, for 4 s."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=24, options={"crf": "5", "g": "12"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.set_display_rotation(90)
        picture = np.full((48, 64, 3), 20, np.uint8)
        picture[:, :32] = 220
        for _ in range(96):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            output.mux(video.encode(frame.reformat(format="yuv420p")))
        output.mux(video.encode(None))
    return path


@pytest.mark.parametrize("start", [0.0, 1.125])
def test_a_turned_picture_stays_turned_copied_or_encoded(tmp_path: Path, start: float) -> None:
    path, out = write_portrait(tmp_path / "portrait.mp4"), tmp_path / "out.mp4"
    with FilmWriter(out, sample_rate=RATE, given=Given("video", path, start)) as film:
        film.add(waveform=torch.zeros(RATE))
    assert ("copied" in film.said[0]) == (start == 0)
    spec = ClipSpec(num_frames=5, fps=24, height=64, width=48)
    shown = read_frames(out, spec)
    assert (shown.float() - read_frames(path, spec, start).float()).abs().mean() < 2
    again = read_windows(out, [0.0], spec, want_audio=False)
    assert again.size == (48, 64)
    assert again.fps == pytest.approx(24, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "codecs", "options"),
    [
        ("a.mp4", ("libx264", "aac"), {}),
        ("b.mp4", ("libx264", "aac"), {"times": "variable"}),
        ("c.mp4", ("libx264", "aac"), {"sound_starts": 0.3}),
        ("d.webm", ("libvpx", "libopus"), {"options": {"deadline": "realtime", "cpu-used": "8"}}),
        ("e.mkv", ("mjpeg", "pcm_s16le"), {"rate": 96000, "layout": "stereo"}),
    ],
)
@pytest.mark.parametrize("modality", ["audio", "video"])
@pytest.mark.parametrize("start", [0.0, 0.9])
def test_flash_and_click_are_one_instant(
    tmp_path: Path,
    write_flash_click: Writer,
    events: tuple[float, ...],
    name: str,
    codecs: tuple[str, str],
    options: dict,
    modality: str,
    start: float,
) -> None:
    """One modality from the file, the other as it was read of it: they meet as in the file."""
    if options.get("times"):
        options = {**options, "times": variable_times(events)}
    path = write_flash_click(tmp_path / name, *codecs, **options)
    window = read_windows(path, [start], FINE)
    clip, begins = window.clip(0, FINE), window.starts.item()
    out, given = tmp_path / "out.mp4", Given(modality, path, begins, FINE.duration)
    made = {"sample_rate": RATE} if modality == "video" else {"fps": FINE.fps}
    with FilmWriter(out, given=given, **made) as film:
        if modality == "video":
            film.add(waveform=clip.waveform)
        else:
            film.add(clip.frames)
    spec = FINE.model_copy(update={"num_frames": 190})
    flashes, tones = flashes_and_tones(read_clip(out, 0.0, spec))
    before = flashes_and_tones(Clip(clip.frames[:190], clip.waveform[: spec.num_samples], 50, RATE))
    assert len(flashes) == len(tones) == len(before[0]) > 1
    # A frame of these files is 20 ms: it is shown at the same one, and sounds at the same instant.
    assert np.abs(flashes - before[0]).max() < 0.0201 if options.get("times") is not None else 0.001
    assert np.abs(tones - before[1]).max() < 0.002


def test_hostile_and_damaged_sources_are_sentences_or_what_can_be_read(
    tmp_path: Path, shared: Path
) -> None:
    made = shared / "nasty" / "made"
    for name in ("playlist_named.mp4", "zero_byte.mp4", "text.mp4", "bomb_8192x8192.mp4"):
        with (
            pytest.raises(MediaError, match=name.split(".")[0]),
            FilmWriter(
                tmp_path / "a.mp4", sample_rate=RATE, given=Given("video", made / name)
            ) as film,
        ):
            film.add(waveform=torch.zeros(RATE))
        assert not (tmp_path / "a.mp4").exists()
    cut = made / "truncated_50pct_faststart.mp4"
    with FilmWriter(tmp_path / "b.mp4", sample_rate=RATE, given=Given("video", cut)) as film:
        film.add(waveform=torch.zeros(RATE))
    assert streams(tmp_path / "b.mp4")["video"][1] > 0
    with (
        pytest.raises(MediaError, match="changes midway"),
        FilmWriter(
            tmp_path / "d.mp4",
            sample_rate=RATE,
            given=Given("video", made / "size_and_rate_change_midstream.ts"),
        ) as film,
    ):
        film.add(waveform=torch.zeros(RATE))
    with pytest.raises(MediaError, match="NaN"):
        film_with_sound(tmp_path / "c.mp4", Given("audio", made / "nan_inf_float_audio.mkv"))


@pytest.mark.parametrize("name", ["a.wav", "a.m4a"])
def test_a_start_beyond_the_end_is_a_sentence(
    tmp_path: Path, sound_file: Callable[[str], Path], name: str
) -> None:
    with pytest.raises(MediaError, match="ends before the film begins"):
        film_with_sound(tmp_path / "a.mp4", Given("audio", sound_file(name), start=4.0))
    assert not (tmp_path / "a.mp4").exists()


def test_both_modalities_cannot_be_given_and_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="given"):
        FilmWriter(tmp_path / "a.mp4", fps=10, given=Given("video", "b.mp4"))

"""What a visitor can have made, by a tiny real model: files, seeds, sentences, refusals, stops."""

import json
import shutil
from pathlib import Path

import av
import pytest
import torch

from mmldm.app.jobs import Job, Stopped
from mmldm.app.making import Studio
from mmldm.app.results import GivenMedia, Wish
from mmldm.app.safety import Bounds
from mmldm.app.sittings import Entry, Sittings
from mmldm.cli.generate import load_model
from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.media.writer import FilmWriter, write_wav
from mmldm.pipelines.provenance import provenance_of

from ..pipelines.conftest import SPEC, build_pipeline

pytestmark = pytest.mark.slow
BOUNDS = Bounds(seconds=6, results=4)


@pytest.fixture(scope="module")
def studio():
    studio = Studio(build_pipeline(), None, BOUNDS)
    yield studio
    studio.close()


@pytest.fixture
def sitting(tmp_path: Path):
    sittings = Sittings(BOUNDS, tmp_path)
    yield sittings.of("ann")
    sittings.close()


@pytest.fixture
def job() -> Job:
    return Job("ann", lambda job: Entry("", "", (), ()))


@pytest.fixture
def film(tmp_path: Path) -> GivenMedia:
    """A film with sound, of two windows, in which something moves."""
    generator = torch.Generator().manual_seed(0)
    count = 2 * SPEC.num_frames
    frames = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    sound = 0.3 * torch.randn(2 * SPEC.num_samples, generator=generator).clamp(-3, 3)
    path = Clip(frames, sound, SPEC.fps, SPEC.sample_rate).save(tmp_path / "film.mp4")
    return GivenMedia(path, "my film.mp4")


def streams(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [stream.type for stream in container.streams]


def test_clips_from_nothing_have_all_files_and_state_their_making(studio, job, sitting) -> None:
    entry = studio.make(job, sitting, Wish(class_name="wood", seed=5, count=2))
    assert [one.seed for one in entry.every] == [5, 6] and sitting.entries == [entry]
    for result in entry.every:
        assert sorted(streams(result.mp4)) == ["audio", "video"]
        assert result.wav.stat().st_size > 44 and result.picture.stat().st_size > 0
        made = provenance_of(result.mp4)
        assert made.seed == result.seed and made.batch == (5, 6) and made.class_name == "wood"
        assert made.asked.settings["class"] == "wood"
        assert json.loads(result.json.read_text()) == json.loads(made.text())


def test_the_same_seed_makes_the_same_clip(studio, job, sitting) -> None:
    first, second = (studio.make(job, sitting, Wish(seed=5, count=1)) for _ in range(2))
    contents = [entry.every[0].wav.read_bytes() for entry in (first, second)]
    assert contents[0] == contents[1]


def test_a_seed_of_minus_one_is_drawn_and_told(studio, job, sitting) -> None:
    entries = [studio.make(job, sitting, Wish(count=1)) for _ in range(2)]
    seeds = [entry.every[0].seed for entry in entries]
    assert all(0 <= seed < 10**6 for seed in seeds) and seeds[0] != seeds[1]
    again = studio.make(job, sitting, Wish(count=1, seed=seeds[0]))
    assert again.every[0].wav.read_bytes() == entries[0].every[0].wav.read_bytes()


def test_a_given_sound_stays_as_it_is(studio, job, sitting, tmp_path: Path) -> None:
    sound = 0.5 * torch.sin(torch.arange(96_000) * 0.05)
    write_wav(tmp_path / "tone.wav", sound, 48_000)
    given = GivenMedia(tmp_path / "tone.wav", "tone.wav")
    entry = studio.for_given(job, sitting, given, "audio", Wish(seed=1, count=2))
    with av.open(str(entry.results[0].mp4)) as container:
        (track,) = container.streams.audio
        assert track.rate == 48_000
        assert abs(float(container.duration) / 1e6 - 2.0) < 0.15
    assert "tone.wav" in " ".join(entry.said) and str(tmp_path) not in " ".join(entry.said)
    assert provenance_of(entry.results[0].mp4).asked.given["audio"].path == "tone.wav"


def test_a_given_picture_stays_as_it_is(studio, job, sitting, film) -> None:
    entry = studio.for_given(job, sitting, film, "video", Wish(seed=1, count=1))

    def packets(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(video=0) if packet.size]

    assert packets(entry.results[0].mp4) == packets(film.path)


def test_start_and_end_choose_a_part_and_that_is_said(studio, job, sitting, film) -> None:
    part = GivenMedia(film.path, film.name, start=0.5, end=1.5)
    entry = studio.for_given(job, sitting, part, "video", Wish(seed=1, count=1))
    assert entry.results[0].seconds == pytest.approx(1.0, abs=0.13)
    assert any("1 s of it are used, from 0.5" in line for line in entry.said)
    facts = studio.look(part, "video")
    assert any("1 s of it are used" in line for line in facts.said)


def test_what_is_longer_than_the_bound_is_cut_and_that_is_said(studio, tmp_path: Path) -> None:
    write_wav(tmp_path / "long.wav", torch.ones(8000 * 20) * 0.1, 8000)
    facts = studio.look(GivenMedia(tmp_path / "long.wav", "long.wav"), "audio")
    assert facts.seconds == pytest.approx(6)
    assert any("6 s of it are used" in line for line in facts.said)
    asked = GivenMedia(tmp_path / "long.wav", "long.wav", 0, 15)
    assert any("15 s are asked for" in line for line in studio.look(asked, "audio").said)


def test_of_an_hour_of_film_a_part_is_used_and_that_is_said(
    studio, job, sitting, tmp_path: Path
) -> None:
    with FilmWriter(tmp_path / "hour.mp4", fps=1.0) as writer:
        writer.add(torch.zeros(3600, 3, 32, 32, dtype=torch.uint8))
    given = GivenMedia(tmp_path / "hour.mp4", "hour.mp4")
    assert any("6 s of it are used" in line for line in studio.look(given, "video").said)
    entry = studio.for_given(job, sitting, given, "video", Wish(seed=1, count=1))
    assert entry.every[0].seconds == pytest.approx(BOUNDS.seconds, abs=0.2)
    assert any("6 s of it are used" in line for line in entry.said)


def test_a_model_folder_that_vanishes_takes_nothing_from_the_page(
    job, sitting, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    build_pipeline().save_pretrained(folder)
    studio = Studio(load_model(str(folder), "cpu"), str(folder), BOUNDS)
    shutil.rmtree(folder)
    entry = studio.make(job, sitting, Wish(seed=5, count=1))
    assert provenance_of(entry.every[0].mp4).asked.model == str(folder)
    studio.close()


def test_the_precision_stands_in_the_clips(studio, job, sitting) -> None:
    rounded = Studio(build_pipeline(), None, BOUNDS, "bf16")
    entries = [one.make(job, sitting, Wish(seed=5, count=1)) for one in (studio, rounded)]
    made = [provenance_of(entry.every[0].mp4) for entry in entries]
    assert [one.machine.precision for one in made] == ["fp32", "bf16"]
    assert made[0].asked.model_sha256 == made[1].asked.model_sha256
    rounded.close()


def test_a_clip_goes_on_and_begins_as_it_was(studio, job, sitting, film) -> None:
    entry = studio.extend(job, sitting, film, Wish(seed=1, count=1, seconds=1.0))
    lasted = 2 * SPEC.duration
    assert entry.results[0].seconds == pytest.approx(lasted + 1.0, abs=0.26)


def test_a_part_is_made_anew(studio, job, sitting, film) -> None:
    entry = studio.retake(job, sitting, film, (0.5, 1.0), "sound", Wish(seed=1, count=1))
    assert "the sound from 0.5 to 1 s made anew" in entry.title
    assert provenance_of(entry.results[0].mp4).asked.settings["only"] == "sound"


def test_what_is_kept_stands_beside_the_clip_with_numbers(studio, job, sitting, film) -> None:
    entry = studio.reconstruct(job, sitting, film)
    assert [one.title for one in entry.results] == ["as the model reads it", "what is kept of it"]
    assert "PSNR" in entry.said[0] and "mel error" in entry.said[0]


def test_results_that_are_nearly_alike_are_one(studio, job, sitting, monkeypatch) -> None:
    monkeypatch.setattr("mmldm.app.alike.SOUND", 1e9)
    monkeypatch.setattr("mmldm.app.alike.PICTURE", -1e9)
    entry = studio.make(job, sitting, Wish(seed=5, count=3))
    assert len(entry.results) == 1 and len(entry.results[0].alike) == 2
    assert [one.seed for one in entry.every] == [5, 6, 7]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(class_name="silk"), "it has wood, metal"),
        (Wish(seconds=7), "up to 6"),
        (Wish(seconds=0), "up to 6"),
        (Wish(seconds=float("nan")), "up to 6"),
        (Wish(seconds=0.001), "at least"),
        (Wish(seed=-2), "-1 to draw"),
        (Wish(seed=2**63), "a seed is"),
        (Wish(count=5), "1 to 4 results"),
        (Wish(count=0), "1 to 4 results"),
        (Wish(quality="golden"), "golden"),
    ],
)
def test_what_cannot_be_made_is_refused(studio, job, sitting, wish, words) -> None:
    with pytest.raises(UserError, match=words):
        studio.make(job, sitting, wish)
    assert sitting.entries == []


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [(-1.0, None, "from 0 on"), (2.0, 1.0, "after the start"), (9.0, None, "film.mp4")],
)
def test_a_part_that_is_none_is_refused(studio, job, sitting, film, start, end, words) -> None:
    part = GivenMedia(film.path, film.name, start, end)
    with pytest.raises(UserError, match=words):
        studio.for_given(job, sitting, part, "video", Wish(count=1))


def test_silence_and_a_still_are_refused(studio, job, sitting, tmp_path: Path) -> None:
    write_wav(tmp_path / "mute.wav", torch.zeros(16000), 8000)
    with pytest.raises(UserError, match="nothing is heard in mute.wav: is the microphone on"):
        given = GivenMedia(tmp_path / "mute.wav", "mute.wav")
        studio.for_given(job, sitting, given, "audio", Wish(count=1))
    still = Clip(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(800), 8.0, 8000)
    given = GivenMedia(still.save(tmp_path / "still.mp4"), "still.mp4")
    with pytest.raises(UserError, match="one frame, in which nothing moves"):
        studio.for_given(job, sitting, given, "video", Wish(count=1))


def test_stopping_ends_the_sampler_at_its_next_step(studio, sitting) -> None:
    class Stopping(Job):
        def progress(self, what: str, done: int, total: int) -> None:
            super().progress(what, done, total)
            self.stop()

    job = Stopping("ann", lambda job: Entry("", "", (), ()))
    with pytest.raises(Stopped):
        studio.make(job, sitting, Wish(seed=1, count=2))
    # The pipeline takes four steps.
    assert job.steps == 1 and sitting.entries == []
    assert [path for path in sitting.folder.iterdir() if path.suffix == ".mp4"] == []


def test_bad_files_are_refused_with_the_visitors_name_and_the_reader_lives_on(
    studio, job, sitting, shared: Path, film
) -> None:
    for name in ("text.mp4", "zero_byte.mp4", "playlist_http.m3u8", "bitflips_moov.mp4"):
        given = GivenMedia(shared / "nasty" / "made" / name, f"my {name}")
        with pytest.raises(UserError) as refused:
            studio.for_given(job, sitting, given, "video", Wish(count=1))
        assert f"my {name}" in str(refused.value) and str(shared) not in str(refused.value)
    assert studio.look(film, "video").seconds


def test_a_reader_that_dies_is_replaced(studio, film) -> None:
    studio.look(film, "video")
    studio.reader._worker.process.kill()  # noqa: SLF001 (as the system does when memory ends)
    with pytest.raises(UserError, match="damaged"):
        studio.look(film, "video")
    assert studio.look(film, "video").seconds


def test_large_pictures_leave_fewer_seconds() -> None:
    pipeline = build_pipeline()
    pipeline.clip_spec = SPEC.model_copy(update={"height": 2048, "width": 2048})
    studio = Studio(pipeline, None, Bounds(seconds=600))
    studio.close()
    assert SPEC.duration <= studio.bounds.seconds < 600

"""Of several tracks the one is read that players take, and the scan names it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from mmldm.errors import MediaError
from mmldm.media.probe import probe
from mmldm.media.reader import read_audio, read_frames
from mmldm.types import ClipSpec

from ..sound_files import write_tracks

SPEC = ClipSpec(num_frames=10, fps=10.0, height=16, width=16)
DEFAULT, COMMENT = Disposition.default, Disposition.comment
LEVELS = (0.125, 0.25, 0.5)
PLAIN: dict = {}
CASES = {
    "the default": ([PLAIN, {"disposition": DEFAULT}, PLAIN], 2),
    "the first of two defaults": ([PLAIN, {"disposition": DEFAULT}, {"disposition": DEFAULT}], 2),
    "the first without a default": ([PLAIN, PLAIN, PLAIN], 1),
    "no commentary by its mark": ([{"disposition": COMMENT}, PLAIN, PLAIN], 2),
    "no commentary by its title": ([{"title": "Director's Commentary"}, PLAIN, PLAIN], 2),
    "no default commentary": ([{"disposition": DEFAULT | COMMENT}, PLAIN, PLAIN], 2),
    "no audio description": (
        [{"disposition": Disposition.visual_impaired}, {"title": "audio description"}, PLAIN],
        3,
    ),
    "not for the hard of hearing": (
        [{"disposition": Disposition.hearing_impaired}, PLAIN, PLAIN],
        2,
    ),
    "the original, not its dub": ([{"disposition": Disposition.dub}, PLAIN, PLAIN], 2),
    "a commentary where there is nothing else": ([{"title": "commentary"}] * 3, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_track_that_players_take_is_read(tmp_path: Path, case: str) -> None:
    marks, number = CASES[case]
    path = write_tracks(tmp_path / "a.mkv", LEVELS, marks)
    assert np.all(read_audio(path, SPEC).numpy() == LEVELS[number - 1])
    said = [note for note in probe(path, allow_missing=True).notes if "track" in note]
    assert len(said) == 1 and said[0].startswith(f"audio track {number} of 3 (")


@pytest.mark.parametrize("suffix", [".mkv", ".mov"])
def test_the_scan_names_language_title_and_channels(tmp_path: Path, suffix: str) -> None:
    marks = [{"title": "Commentary"}, {"language": "fra", "title": "Film", "disposition": DEFAULT}]
    path = write_tracks(tmp_path / f"a{suffix}", LEVELS[:2], marks)
    notes = probe(path, allow_missing=True).notes
    assert "audio track 2 of 2 (fra, 'Film', 1 channel) is used" in notes


def test_a_single_track_is_not_worth_a_word(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mkv", LEVELS[:1], [{"title": "Commentary"}])
    assert probe(path, allow_missing=True).notes == ("no picture",)


def test_of_several_video_tracks_the_default_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        streams = []
        for default in (False, True):
            stream = output.add_stream("ffv1", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv444p"
            stream.disposition = DEFAULT if default else Disposition(0)
            streams.append(stream)
        for stream, level in zip(streams, (50, 200), strict=True):
            for _ in range(20):
                grey = np.full((16, 32, 3), level, np.uint8)
                frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
                output.mux(stream.encode(frame.reformat(format="yuv444p")))
            output.mux(stream.encode(None))
    assert abs(read_frames(path, SPEC).float().mean().item() - 200) < 2
    assert "video track 2 of 2 (32x16) is used" in probe(path, allow_missing=True).notes


def test_a_track_of_a_codec_that_nothing_decodes_is_none(tmp_path: Path) -> None:
    path = write_tracks(tmp_path / "a.mkv", LEVELS[:2], [{"disposition": DEFAULT}, PLAIN])
    known = path.read_bytes()
    path.write_bytes(known.replace(b"A_PCM/INT/LIT", b"A_XYZ/INT/LIT", 1))
    assert np.all(read_audio(path, SPEC).numpy() == LEVELS[1])
    path.write_bytes(known.replace(b"A_PCM/INT/LIT", b"A_XYZ/INT/LIT"))
    with pytest.raises(MediaError, match="no audio stream that can be decoded") as caught:
        read_audio(path, SPEC)
    assert caught.value.reason == "no_audio"


def test_a_film_for_planetariums_says_its_tracks(shared: Path) -> None:
    notes = probe(shared / "clips/nasa_13013_8k_multistream.mp4").notes
    assert "audio track 1 of 2 (eng, 2 channels) is used" in notes
    assert any(note.startswith("video track 1 of 2 (eng, ") for note in notes)

"""`mmldm generate` and `mmldm reconstruct`: what they print and write, and their refusals."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmldm.errors import MediaError
from mmldm.media.clip import Clip
from mmldm.media.reader import read_clip
from mmldm.media.writer import FilmWriter, write_wav

from ..media.numbered import write_numbered
from ..smallest import CLIP
from .commandline import Result, contents, in_process, mmldm

pytestmark = pytest.mark.slow


def made_in(out: Path, place: str) -> Path:
    """The first clip of a place."""
    return out / place / f"{place}_000.mp4"


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Path:
    return sorted(clip_folder.glob("wood/*.mp4"))[0]


def test_joint_clips_and_sheet_are_written_where_it_says(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    result = mmldm("generate", "--model", run_folder, "--out", out, "-n", 3, "--seed", 5)
    lines = result.succeeded().splitlines()
    place = out / "joint-5"
    files = [place / f"joint-5_{i:03d}.mp4" for i in range(3)]
    sheet = place / "joint-5_sheet_000.png"
    assert lines[:3] == [str(file) for file in files]
    assert lines[3] == f"contact sheet: {sheet}"
    assert lines[4].startswith("3 clips in ")
    beside = {file.with_suffix(".json").name for file in files}
    assert {path.name for path in place.iterdir()} == {
        *(file.name for file in files), *beside, sheet.name, "settings.json"
    }  # fmt: skip
    made = read_clip(files[0], 0, CLIP)
    assert made.frames.shape == (CLIP.num_frames, 3, CLIP.height, CLIP.width)
    assert result.err == ""


def test_other_clips_get_another_place_and_the_same_ones_their_own(
    run_folder: Path, tmp_path: Path
) -> None:
    words = ("generate", "--model", run_folder, "--out", tmp_path, "-n", 1)
    mmldm(*words).succeeded()
    before = contents(tmp_path)
    result = mmldm(*words)
    assert "what this command makes is in" in result.err
    assert "0 clips in" in result.succeeded() and "1 were there" in result.out
    assert contents(tmp_path) == before
    mmldm(*words, "--steps", 2).succeeded()
    now = contents(tmp_path)
    assert {name: now[name] for name in before} == before
    assert "joint-0-2/joint-0-2_000.mp4" in now
    # A name of one's own is never replaced, either.
    mmldm(*words, "--name", "mine").succeeded()
    complaint = mmldm(*words, "--name", "mine", "--steps", 3).complaint()
    assert "(steps differ): choose another --name" in complaint
    assert "is no name of a folder" in mmldm(*words, "--name", "a/b").complaint()


def test_more_clips_and_lost_ones_are_made_and_the_others_kept(
    run_folder: Path, tmp_path: Path
) -> None:
    words = ("generate", "--model", run_folder, "--out", tmp_path)
    mmldm(*words, "-n", 3).succeeded()
    place = tmp_path / "joint-0"
    before = contents(place)
    (place / "joint-0_001.mp4").unlink()
    (place / "joint-0_002.json").unlink()
    result = mmldm(*words, "-n", 4)
    assert "1 of 4 clips are there, of the same command: it goes on" in result.err
    assert "3 clips in" in result.succeeded()
    now = contents(place)
    assert now.keys() - before.keys() == {"joint-0_003.mp4", "joint-0_003.json"}
    assert now["joint-0_000.mp4"] == before["joint-0_000.mp4"]
    # The sheet shows the fourth, too, and those of before from their files.
    assert len(now["joint-0_sheet_000.png"]) > len(before["joint-0_sheet_000.png"])


def test_a_clip_is_made_again_bit_for_bit_from_its_file_or_its_json(
    run_folder: Path, clip: Path, tmp_path: Path
) -> None:
    model = ("--model", run_folder, "--out", tmp_path)
    mmldm("generate", *model, "-n", 3, "--class", "wood", "--seed", 7).succeeded()
    mmldm("generate", *model, "-n", 1, "--audio", clip).succeeded()
    mmldm("retake", clip, *model, "--from", 0.1, "--to", 0.3).succeeded()
    for file in sorted(tmp_path.glob("*/*_00[01].mp4")):
        for given in (file, file.with_suffix(".json")):
            again = tmp_path / given.suffix[1:]
            mmldm("generate", "--again", given, "--out", again).succeeded()
            made = again / f"{file.stem}-again" / f"{file.stem}-again_000.mp4"
            assert made.read_bytes() == file.read_bytes()
            assert made.with_suffix(".json").read_bytes() == file.with_suffix(".json").read_bytes()


def test_what_has_changed_since_a_clip_was_made_is_said(run_folder: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(run_folder / "model", tmp_path / "model"))
    mmldm("generate", "--model", model, "--out", tmp_path, "-n", 1).succeeded()
    file = tmp_path / "joint-0" / "joint-0_000.mp4"
    again = ("generate", "--again", file, "--out", tmp_path)
    assert "leave --seed out" in mmldm(*again, "--seed", 3).complaint()
    assert "without --audio: leave it out" in mmldm(*again, "--audio", file).complaint()
    index = json.loads((model / "model_index.json").read_text()) | {"guidance_scale": 3.0}
    (model / "model_index.json").write_text(json.dumps(index))
    result = mmldm(*again)
    result.succeeded()
    assert "the model has changed since joint-0_000.mp4 was made" in result.err
    model.rename(tmp_path / "elsewhere")
    assert "which is not here: name it with --model" in mmldm(*again).complaint()
    complaint = mmldm("generate", "--again", run_folder / "manifest.jsonl").complaint()
    assert "manifest.jsonl" in complaint


def test_only_what_says_how_it_was_made_is_made_again(clip: Path, tmp_path: Path) -> None:
    def refused(file: Path) -> str:
        return mmldm("generate", "--again", file, "--out", tmp_path / "out").complaint()

    wav, other = tmp_path / "sound.wav", tmp_path / "other.json"
    write_wav(wav, torch.zeros(16000), 16000)
    other.write_text('{"format": "another"}')
    for file in (clip, wav, other):
        assert "does not say how it was made" in refused(file)
    other.write_text('{"format": "mmldm.clip", "version": 2}')
    assert "made by a newer mmldm" in refused(other)
    other.write_text('{"format": "mmldm.clip", "seed": "one"}')
    assert f"{other}: asked: missing key" in refused(other)
    assert "is not a file" in refused(tmp_path / "none.mp4")
    assert not (tmp_path / "out").exists()


def test_sheets_have_pages(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmldm.cli.films.PAGE", 2)
    words = ("generate", "--model", run_folder, "--out", tmp_path)
    lines = mmldm(*words, "-n", 3).succeeded().splitlines()
    place = tmp_path / "joint-0"
    pages = [place / f"joint-0_sheet_{first:03d}.png" for first in (0, 2)]
    assert [f"contact sheet: {page}" for page in pages] == lines[3:5]
    with Image.open(pages[0]) as two, Image.open(pages[1]) as one:
        assert two.height > 1.8 * one.height


def test_interruption_leaves_whole_clips_and_one_sentence(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmldm.cli.produce.BATCH", 1)
    words = ("generate", "--model", run_folder, "--out", tmp_path, "-n", 3)
    opened = 0
    enter = FilmWriter.__enter__

    def pressed(film: FilmWriter) -> FilmWriter:
        nonlocal opened
        opened += 1
        if opened == 3:
            raise KeyboardInterrupt
        return enter(film)

    with monkeypatch.context() as during:
        during.setattr(FilmWriter, "__enter__", pressed)
        result = mmldm(*words)
    place = tmp_path / "joint-0"
    assert result.code == 130
    assert result.err == (
        f"mmldm: interrupted: 2 of 3 clips are whole in {place}; the same command goes on with the "
        "others\n"
    )
    before = contents(place)
    assert {name for name in before if name.endswith(".mp4")} == {
        "joint-0_000.mp4", "joint-0_001.mp4"
    }  # fmt: skip
    assert "1 clip in" in mmldm(*words).succeeded()
    now = contents(place)
    assert {name: now[name] for name in before} == before
    assert (place / "joint-0_002.mp4").is_file()


def test_same_command_makes_the_same_clips(run_folder: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        words = ("--model", run_folder, "--out", tmp_path / name, "-n", 2)
        mmldm("generate", *words).succeeded()
    first, second = contents(tmp_path / "first"), contents(tmp_path / "second")
    assert [name for name in first.keys() | second.keys() if first[name] != second[name]] == []


def test_given_picture_is_in_the_clip_and_names_it(
    run_folder: Path, clip: Path, tmp_path: Path
) -> None:
    words = ("--model", run_folder, "--video", clip, "--out", tmp_path, "-n", 1)
    mmldm("generate", *words).succeeded()
    made = read_clip(made_in(tmp_path, f"v2a-{clip.stem}_mp4-0"), 0, CLIP)
    given = read_clip(clip, 0, CLIP)
    assert (made.frames.float() - given.frames.float()).abs().mean() < 6


def test_classes_do_not_overwrite_each_other(run_folder: Path, tmp_path: Path) -> None:
    for name in ("wood", "glass"):
        words = ("--model", run_folder, "--class", name, "--out", tmp_path, "-n", 1)
        mmldm("generate", *words).succeeded()
    assert {path.name for path in tmp_path.iterdir()} == {"joint-wood-0", "joint-glass-0"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--audio", "{clip}", "--video", "{clip}"), "not both"),
        (("--audio", "{mute}"), "{mute} has no sound: use --video"),
        (("--audio", "{text}"), "text.mp4"),
        (("--video", "{wav}"), "{wav} is a sound: use --audio"),
        (("--audio", "{text}"), "{text}"),
        (("--clip", "{clip}"), "--clip goes with --again"),
        (("--video", "{clip}", "--start", "9"), "use an earlier window or a longer file"),
        (("--audio", "{clip}", "--start", "9"), "{clip}"),
        (("--audio", "{nothing}"), "{nothing} is not a file"),
        (("--start", "1"), "--start is a second of the file given"),
        (("--class", "woood"), "unknown class 'woood', did you mean 'wood'?"),
        (("--scheduler", "magic"), "unknown scheduler 'magic'"),
        (
            ("--device", "banana"),
            "device banana: there is no such device; known are cpu, cuda, mps",
        ),
        (("--model", "{nothing}"), "{nothing}: no such model folder"),
        (("--model", "{clips}"), "not a saved model (no model_index.json)"),
        (("--model", "nobody/nothing"), "neither a folder here nor a model that the hub gave us"),
        (("--out", "{clip}"), "is not a folder"),
        (("--out", "{clip}/out"), "is not a folder"),
    ],
)
def test_mistake_is_a_sentence_and_makes_no_folder(
    words: tuple[str, ...], sentence: str, run_folder: Path, clip: Path, tmp_path: Path
) -> None:
    paths = {
        "clip": clip,
        "clips": clip.parent,
        "nothing": tmp_path / "nothing",
        "mute": tmp_path / "mute.mp4",
        "text": tmp_path / "text.mp4",
        "wav": tmp_path / "sound.wav",
    }
    paths["text"].write_text("not a video")
    write_wav(paths["wav"], torch.zeros(16000), 16000)
    _write_mute(paths["mute"])
    words = tuple(word.format(**paths) for word in words)
    before = contents(tmp_path)
    result = mmldm("generate", "--model", run_folder, "--out", tmp_path / "out", "-n", 1, *words)
    assert sentence.format(**paths) in result.complaint()
    assert contents(tmp_path) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [("--steps", "0"), ("--steps", "many"), ("--steps", "5000"), ("-n", "0"), ("--start", "nan"),
     ("--start", "inf"), ("--seed", "-1"), ("--seed", str(2**70)), ("--guidance", "nan"),
     ("--decoder-steps", "0")],
)  # fmt: skip
def test_nonsense_number_is_refused_by_the_option_it_was_given_to(words: tuple[str, str]) -> None:
    result = mmldm("generate", *words)
    assert result.code == 2
    assert words[0] in result.err
    assert "Traceback" not in result.err


def test_cut_weights_and_unfinished_runs_are_named(run_folder: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(run_folder / "model", tmp_path / "model"))
    weights = next((model / "generator").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    complaint = mmldm("generate", "--model", model, "--out", tmp_path / "out").complaint()
    assert f"{weights}: incomplete" in complaint
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(run_folder / "manifest.jsonl", run)
    complaint = mmldm("generate", "--model", run, "--out", tmp_path / "out").complaint()
    assert "its generator job has no checkpoint yet" in complaint


def test_unfinished_run_gives_its_newest_average_weights(run_folder: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "run"))
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "generator" / "export")
    result = mmldm("generate", "--model", run, "--out", tmp_path / "out", "-n", 1)
    result.succeeded()
    assert f"note: {run} is not finished: its generator's average weights at step 2" in result.err
    assert list((tmp_path / "out").rglob("*.mp4"))


def test_full_disk_is_a_sentence_and_leaves_no_half_file(run_folder: Path, tmp_path: Path) -> None:
    words = ("generate", "--model", run_folder, "--out", tmp_path / "out", "-n", 1)
    complaint = in_process(*words, largest_file=1000).complaint()
    assert "cannot write" in complaint
    assert "joint-0_000.mp4" in complaint
    assert contents(tmp_path / "out").keys() == {"joint-0/settings.json"}


def test_reconstruction_is_shown_beside_the_original(
    run_folder: Path, clip: Path, tmp_path: Path
) -> None:
    out = mmldm("reconstruct", clip, "--model", run_folder, "--out", tmp_path).succeeded()
    assert "frames: PSNR " in out
    assert "sound:  mean log-mel error " in out
    both = CLIP.model_copy(update={"width": 2 * CLIP.width})
    place = tmp_path / f"reconstruction-{clip.stem}_mp4"
    kept, shown_in, _ = (f"{place.name}_{x}" for x in ("kept.mp4", "side_by_side.mp4", "sheet.png"))
    assert {path.name for path in place.glob("*.mp4")} == {kept, shown_in}
    shown = read_clip(place / shown_in, 0, both)
    given = read_clip(clip, 0, CLIP)
    left = shown.frames[..., : CLIP.width].float()
    assert (left - given.frames.float()).abs().mean() < 6


def numbered(path: Path, seconds: float = 6.0, begins: float = 0.0) -> Path:
    """10 fps; picture n says that it is the n-th."""
    count = round(10 * (seconds - begins))
    return write_numbered(path, [begins + n / 10 for n in range(count)], seconds=seconds)


READ_AT = "its picture of 80x16 at 10 frames a second is read at 32x32 and 10, cut from the middle"

JOINS = (
    "this model has not learnt to go on from what it knows, so where windows meet may be seen and heard; "
    "train its generator with known_slots to mend that"
)


def notes(result: Result) -> list[str]:
    result.succeeded()
    assert all(line.startswith("note: ") for line in result.err.splitlines())
    return [line.removeprefix("note: ") for line in result.err.splitlines()]


@pytest.mark.parametrize("option", ["--video", "--audio"])
def test_what_is_used_of_a_given_file_is_said(
    run_folder: Path, tmp_path: Path, option: str
) -> None:
    path = numbered(tmp_path / "long.mp4")
    words = ("generate", "--model", run_folder, option, path, "-n", 1, "--out")
    copied = f"the sound of {path} (aac, 48000 Hz, 1 channel) is copied as it is"
    seen = [READ_AT] if option == "--video" else []

    def kept(sentence: str) -> list[str]:
        """What is read of the picture, and what becomes of the original."""
        about = f"the picture of {path} (h264, 80x16) is {sentence}"
        return [*seen, JOINS, about if option == "--video" else copied]

    assert notes(mmldm(*words, tmp_path / "a")) == kept("copied as it is")
    again = "encoded once, as H.264 of crf 14 at 80x16: the cut is not at a key frame"
    assert notes(mmldm(*words, tmp_path / "b", "--start", 2.0)) == [
        "it is used from 2.000 s to its end",
        *kept(again),
    ]
    assert notes(mmldm(*words, tmp_path / "c", "--start", 2.04, "--seconds", 0.8)) == [
        "the clip starts at 2.000 s, at the source frame nearest to 2.04 s",
        "0.8 s of it are used, from 2 s on",
        *kept(again),
    ]
    # At the model's rate nothing of the original is left to be said.
    assert notes(mmldm(*words, tmp_path / "d", "--start", 2.0, "--at-model-rate")) == [
        "it is used from 2.000 s to its end", *seen, JOINS
    ]  # fmt: skip
    if option == "--video":
        made = read_clip(made_in(tmp_path / "d", "v2a-long_mp4-0"), 0, CLIP)
        given = read_clip(path, 2.0, CLIP)
        assert (made.frames.float() - given.frames.float()).abs().mean() < 6


def test_reconstruct_says_what_is_used_and_what_is_odd(run_folder: Path, tmp_path: Path) -> None:
    path = numbered(tmp_path / "late.mp4", begins=2.0)
    words = ("reconstruct", path, "--model", run_folder, "--out", tmp_path, "--start", 1.26)
    assert notes(mmldm(*words)) == [
        "picture starts 2.00 s late: both are counted from there",
        "the clip starts at 1.300 s, at the source frame nearest to 1.26 s",
        f"{CLIP.duration:g} s of 4.0 s are used, from 1.300 s on",
        READ_AT,
    ]
    both = CLIP.model_copy(update={"width": 2 * CLIP.width})
    place = tmp_path / "reconstruction-late_mp4"
    shown = read_clip(place / f"{place.name}_side_by_side.mp4", 0, both).frames[..., : CLIP.width]
    given = read_clip(path, 1.26, CLIP)
    assert (shown.float() - given.frames.float()).abs().mean() < 6


def test_image_vae_alone_reconstructs_too(run_folder: Path, tmp_path: Path) -> None:
    size = ("--size", 32, "--seconds", 2, "--clips", 1, "--workers", 1)
    mmldm("synthesize", tmp_path / "long", *size).succeeded()
    long = next((tmp_path / "long").glob("*/*.mp4"))
    vae = run_folder / "vae" / "export"
    words = ("reconstruct", long, "--vae", vae, "--size", 64, "--out", tmp_path / "out")
    assert "frames: PSNR " in mmldm(*words).succeeded()


def test_reconstruct_refuses_in_a_sentence(run_folder: Path, clip: Path, tmp_path: Path) -> None:
    def refused(*words: object) -> str:
        return mmldm("reconstruct", *words, "--out", tmp_path / "out").complaint()

    _write_mute(tmp_path / "mute.mp4")
    assert "has no audio stream" in refused(tmp_path / "mute.mp4", "--model", run_folder)
    assert "ends before" in refused(clip, "--model", run_folder, "--start", 0.2)
    assert "is not a file" in refused(tmp_path / "none.mp4", "--model", run_folder)
    assert "not both" in refused(clip, "--model", run_folder, "--vae", run_folder)
    assert "not a multiple of 32" in refused(clip, "--vae", run_folder, "--size", 100)
    assert "holds no image VAE" in refused(clip, "--vae", tmp_path)
    assert not (tmp_path / "out").exists()


def _write_mute(path: Path) -> None:
    """A whole clip's sound stream taken away."""
    import av

    frames = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    whole = Clip(frames, torch.zeros(6400), 10.0, 8000).save(path.with_name("whole.mp4"))
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    whole.unlink()


def test_longer_clips_are_extended_and_retaken(run_folder: Path, tmp_path: Path) -> None:
    model = ("--model", run_folder, "--out", tmp_path, "-n", 1)
    result = mmldm("generate", *model, "--seconds", 1.1)
    result.succeeded()
    assert "has not learnt to go on" in result.err
    short = ("--model", run_folder, "--out", tmp_path / "short", "-n", 1, "--seconds", 0.4)
    assert "has not learnt to go on" not in mmldm("generate", *short).err
    clip = made_in(tmp_path, "joint-0")
    long = CLIP.model_copy(update={"num_frames": 11})
    assert read_clip(clip, 0, long).frames.shape[0] == 11
    mmldm("extend", clip, *model, "--seconds", 0.5).succeeded()
    longer = long.model_copy(update={"num_frames": 16})
    made = read_clip(made_in(tmp_path, "extended-joint-0_000_mp4-0"), 0, longer)
    kept = read_clip(clip, 0, long).frames.float()
    assert (made.frames[:11].float() - kept).abs().mean() < 6
    mmldm("retake", clip, *model, "--from", 0.3, "--to", 0.6, "--only", "picture").succeeded()
    taken = read_clip(made_in(tmp_path, "retaken-joint-0_000_mp4-0"), 0, long).frames.float()
    changed = (taken - kept).abs().flatten(1).mean(1)
    assert changed[[0, 1, 8, 9]].max() < changed[3:6].max()


def test_a_long_sound_makes_a_film_that_keeps_it(run_folder: Path, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    write_wav(song, 0.3 * torch.sin(torch.arange(30_000) / 9.0), 24_000)
    words = ("--model", run_folder, "--audio", song, "--out", tmp_path, "-n", 1)
    mmldm("generate", *words).succeeded()
    film = CLIP.model_copy(update={"num_frames": 12, "sample_rate": 24_000})
    made = read_clip(made_in(tmp_path, "a2v-song_wav-0"), 0, film)
    assert made.waveform.abs().max() > 0.25
    mmldm("generate", *words, "--seconds", 0.4, "--at-model-rate").succeeded()
    short = made_in(tmp_path, "a2v-song_wav-0-2")
    assert read_clip(short, 0, CLIP).frames.shape[0] == 4
    with pytest.raises(MediaError, match="ends before"):
        read_clip(short, 0, film)


def test_given_media_out_of_the_models_world_are_used_and_said_once(
    run_folder: Path, clip: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(run_folder / "model", model)
    # A world so narrow that every clip lies outside; this model's latents have four channels each.
    narrow = {"mean": [0.0] * 8, "std": [1.0] * 8, "deviation": 1e-6, "error": 1e-6}
    outliers = {"audio": narrow, "video": narrow, "networks": "of the test", "held_out": 50}
    index = json.loads((model / "model_index.json").read_text()) | {"outliers": outliers}
    (model / "model_index.json").write_text(json.dumps(index))

    for option, what in (("--audio", "sound"), ("--video", "picture")):
        words = ("--model", model, option, clip, "--out", tmp_path / what, "-n", 2)
        result = mmldm("generate", *words)
        result.succeeded()
        assert result.err.count("unlike all that") == 1
        part = r"is (in \d+ of \d+ windows of 0.4 s )?unlike"
        assert re.search(rf"the {what} of {re.escape(clip.name)} {part}", result.err)
        assert len(list((tmp_path / what).glob("*/*.mp4"))) == 2
    changed = ("extend", clip, "--seconds", 0.4), ("retake", clip, "--from", 0.1, "--to", 0.3)
    for command in (("reconstruct", clip), *changed):
        result = mmldm(*command, "--model", model, "--out", tmp_path / "both")
        result.succeeded()
        assert result.err.count("unlike all that") == 2

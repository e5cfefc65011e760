"""`mmldm evaluate` as a person meets it: reports, anchors, refusals, and what it says of bad files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mmldm.evaluation.page import digits
from mmldm.media.clip import Clip
from mmldm.pipelines.published import BUNDLED
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.clips import ImpactsConfig, render_clip, synthesize

from ..remux import remux
from .commandline import Result, contents, mmldm

pytestmark = pytest.mark.slow

FREE = "event-overlap,beat-alignment,memorisation,silent,frozen"
"""Metrics that need no weights."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds") / "real"
    synthesize(folder, ImpactsConfig(seed=1, materials=("wood", "glass")), 12, workers=1)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds") / "other"
    synthesize(folder, ImpactsConfig(seed=2, materials=("wood", "glass")), 8, workers=1)
    return folder


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMLDM_WEIGHTS", str(tmp_path / "weights"))


@pytest.fixture(scope="module")
def evaluated(world: Path, other: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMLDM_WEIGHTS", str(out / "weights"))
        evaluate(other, world, out).succeeded()
    return out


def evaluate(generated: Path, reference: Path, out: Path, *words: object) -> Result:
    return mmldm(
        "evaluate", generated, reference, "--out", out, "--workers", 1, "--device", "cpu", *words
    )


def report(out: Path) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in the report")

    return json.loads((out / "report.json").read_text(), parse_constant=refuse)


def numbers(out: Path) -> dict[str, dict[str, Any]]:
    return {line["name"]: line["values"] for line in report(out)["numbers"]}


def test_a_remux_of_every_clip_gives_the_same_numbers(tmp_path: Path) -> None:
    """Containers whose clock has ticks of 1 ms used to double frame 0 and move all others by one."""
    longer = ImpactsConfig(seed=3, materials=("wood", "glass"), spec=ClipSpec(num_frames=24))
    synthesize(tmp_path / "mp4", longer, 8, workers=1)
    for path in (tmp_path / "mp4").rglob("*.mp4"):
        copy = tmp_path / "mkv" / path.relative_to(tmp_path / "mp4").with_suffix(".mkv")
        copy.parent.mkdir(parents=True, exist_ok=True)
        remux(path, copy)
    synthesize(tmp_path / "real", ImpactsConfig(seed=1, materials=("wood", "glass")), 6, workers=1)
    printed = []
    for name in ("mp4", "mkv"):
        evaluate(tmp_path / name, tmp_path / "real", tmp_path / f"out-{name}").succeeded()
        found = numbers(tmp_path / f"out-{name}")
        generated = {title: values["generated"]["value"] for title, values in found.items()}
        printed.append({title: value and digits(value) for title, value in generated.items()})
    assert {"event-overlap", "nearest-median", "sync-recall-50", "sync-timing"} <= printed[0].keys()
    assert printed[0] == printed[1]


def test_renamed_files_have_the_same_numbers_and_intervals(other: Path, tmp_path: Path) -> None:
    """Two windows a file, of a reference that is split: groups, halves and draws follow contents."""
    longer = ImpactsConfig(seed=3, materials=("wood", "glass"), spec=ClipSpec(num_frames=32))
    synthesize(tmp_path / "named", longer, 12, workers=1)
    for path in sorted((tmp_path / "named").rglob("*.mp4")):
        copy = tmp_path / "renamed" / path.parent.name / f"{99 - int(path.stem)}.mp4"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    words = ("--metrics", f"{FREE},impacts", "--samples", 18, "--cache", tmp_path / "cache")
    for name in ("named", "renamed"):
        evaluate(other, tmp_path / name, tmp_path / f"out-{name}", *words).succeeded()
    found = [numbers(tmp_path / f"out-{name}") for name in ("named", "renamed")]
    assert found[0]["event-overlap"]["real"]["interval"] is not None and found[0] == found[1]
    page = (tmp_path / "out-named" / "report.md").read_text()
    assert "The 18 clips of reference are of 12 recordings: intervals are over these." in page


def test_pattern_makes_recordings_of_files(world: Path, other: Path, tmp_path: Path) -> None:
    """Pairs of clips as parts of one recording: both stand in one half, and intervals are over pairs."""
    for path in sorted(world.rglob("*.mp4")):
        stem = int(path.stem)
        copy = tmp_path / "clips" / path.parent.name / f"take{stem // 4}_{stem}.mp4"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    words = ("--metrics", "silent,memorisation", "--group-pattern", r"(take\d+)_")
    evaluate(other, tmp_path / "clips", tmp_path / "out", *words).succeeded()
    sets = report(tmp_path / "out")["sets"]
    assert (sets["reference"]["clips"], sets["reference"]["recordings"]) == (12, 3)
    assert sets["generated"]["recordings"] == 8
    sentence = evaluate(other, world, tmp_path / "bad", "--group-pattern", "take").complaint()
    assert "--group-pattern" in sentence


def test_without_any_weights_all_that_needs_none_is_measured_beside_its_anchors(
    evaluated: Path, world: Path
) -> None:
    found = numbers(evaluated)
    free = {"event-overlap", "beat-alignment", "nearest-median", "nearest-5", "silent", "frozen"}
    assert free | {"sync-recall-20", "sync-timing"} <= found.keys()
    align = found["event-overlap"]
    assert align["generated"]["n"] == 8 and align["real"]["n"] == 6
    assert align["real"]["shuffled"] < align["real"]["value"]
    assert found["nearest-median"]["generated"]["against"] == 12
    assert found["nearest-median"]["generated, equal n"]["against"] == 6
    assert found["nearest-median"]["real"]["against"] == 6
    undefined = report(evaluated)["undefined"]
    assert "there is no i3d_pretrained_400.pt or" in undefined["fvd"]
    assert {"fvd", "kvd", "fad", "kad", "frame-fd", "regions-yamnet"} <= undefined.keys()
    assert report(evaluated)["classes"].keys() == {"wood", "glass"}
    page = (evaluated / "report.md").read_text()
    assert (
        "not of equally many clips (generated 8, real 6), on which its mean does not depend" in page
    )
    assert "| real | of one law |" in page and "| as real |" in page


def test_protocol_of_mm_diffusion_hears_at_44_khz_and_says_where_audioclip_belongs(
    evaluated: Path, world: Path, other: Path, tmp_path: Path
) -> None:
    evaluate(other, world, tmp_path, "--protocol", "mm-diffusion", "--samples", 8).succeeded()
    about = report(tmp_path)
    assert "there is no AudioCLIP-Full-Training.pt or" in about["undefined"]["fad-audioclip"]
    assert str(tmp_path / "weights") in about["undefined"]["fad-audioclip"]
    assert "fad-audioclip" not in report(evaluated)["undefined"]
    assert about["protocol"]["spec"]["sample_rate"] == 44_100
    heard, usual = (numbers(out)["sync-recall-50"]["generated"] for out in (tmp_path, evaluated))
    assert heard["value"] == pytest.approx(usual["value"], abs=0.1)


def test_metrics_of_the_impacts_world_are_measured_where_they_are_named(
    evaluated: Path, world: Path, other: Path, tmp_path: Path
) -> None:
    assert not {"ballistic", "ball-lost", "sync-offset-50"} & numbers(evaluated).keys()
    words = ("--metrics", "impacts-path,impacts-timing", "--cache", evaluated / "cache")
    evaluate(other, world, tmp_path, *words).succeeded()
    found = numbers(tmp_path)
    assert report(tmp_path)["speed"]["clips"] == 0  # `impacts` has taken all of it down.
    assert {"impacts-per-clip", "onsets-per-clip", "ballistic", "ball-kept", "ball-lost", "jitter",
            "restitution-spread", "sync-offset-50"} == found.keys()  # fmt: skip
    assert 1 < found["impacts-per-clip"]["generated"]["value"] < 7
    assert found["ball-lost"]["generated"]["value"] == 0


def test_page_shows_numbers_reasons_and_pictures_that_are_there(evaluated: Path) -> None:
    page = (evaluated / "report.md").read_text()
    assert "| sound and motion events in common ↑ | " in page and "nan" not in page.lower()
    assert (
        "the reference was split by a hash of contents: 6 of its clips against the other 6" in page
    )
    assert "fvd, kvd, regions-i3d: I3D needs its weights" in page
    shown = {line.partition("](")[2].rstrip(")") for line in page.splitlines() if "](" in line}
    pictures = {path.name for path in evaluated.glob("*.png")}
    assert shown == pictures and {"map.png", "intervals.png", "nearest.png"} <= pictures
    assert {"best_alignment.png", "worst_alignment.png", "classes.png"} <= pictures


def test_repeated_command_measures_nothing_again_and_says_the_same(
    evaluated: Path, world: Path, other: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    shutil.copytree(evaluated, out)
    assert "All clips had been measured before." in evaluate(other, world, out).succeeded()
    assert numbers(out) == numbers(evaluated)


def test_clips_against_themselves_are_copies_at_no_distance(
    world: Path, evaluated: Path, tmp_path: Path
) -> None:
    words = ("--metrics", FREE, "--cache", evaluated / "cache")
    printed = evaluate(world, world, tmp_path, *words).succeeded()
    assert numbers(tmp_path)["nearest-median"]["generated"]["value"] == pytest.approx(0, abs=1e-6)
    assert len(report(tmp_path)["copies"]) == 12
    page = (tmp_path / "report.md").read_text()
    assert "**12 generated clips are byte for byte in the reference (such as " in page
    told = [line for line in printed.split("\n") if line.startswith("copies: ")]
    assert told[0].startswith(
        "copies: 12 generated clips are byte for byte in the reference (such as "
    )
    assert told[1].startswith("copies: 12 generated clips show and sound as a reference clip does")
    assert "inventing gives 14.3 % on average, and 0 to " in told[2] and "of 6 real ones" in told[2]
    assert report(tmp_path)["speed"]["clips"] == 0


def test_equal_contents_of_any_two_sides_are_told_with_names(
    world: Path, other: Path, tmp_path: Path
) -> None:
    odd = "a|b<i>\x1b[2J\nnext.mp4"
    generated, reference, held_out = (tmp_path / name for name in ("g", "r", "h"))
    for folder, source in ((generated, other), (reference, world), (held_out, other)):
        folder.mkdir()
        for path in sorted(source.glob("*/*.mp4"))[:6]:
            shutil.copy(path, folder / path.name)
    shutil.copy(next(world.glob("wood/*.mp4")), generated / odd)
    same = sorted(held_out.glob("*.mp4"))[0].name
    first = sorted(reference.glob("*.mp4"))[0]
    for name in ("twice", "thrice"):
        shutil.copy(first, reference / f"{name}.mp4")
    shutil.copy(first, held_out / "leak.mp4")
    shutil.copy(next(world.glob("wood/*.mp4")), reference / "wood.mp4")
    out = tmp_path / "out"
    printed = evaluate(
        generated, reference, out, "--held-out", held_out, "--metrics", "silent,frozen"
    ).succeeded()
    lines = [line for line in printed.split("\n") if line.startswith("equal contents: ")]
    assert lines == [
        r"equal contents: 1 generated clip has the content of reference clips (such as "
        r"a|b<i>\x1b[2J\nnext.mp4 and wood.mp4).",
        f"equal contents: 6 generated clips have the content of real clips (such as {same} and "
        f"{same}).",
        f"equal contents: reference: 2 files repeat the content of another one (such as {first.name} "
        "and thrice.mp4).",
        "equal contents: 1 held-out clips are in the reference, too, and were taken out of the real set "
        "(such as leak.mp4).",
    ]
    found = report(out)
    assert found["copies"] == [odd] and found["sets"]["real"]["clips"] == 6
    assert found["sets"]["reference"]["repeated"] == [[first.name, "thrice.mp4", "twice.mp4"]]
    assert [len(pair["clips"]) for pair in found["equal"]] == [1, 6]
    page = (out / "report.md").read_text()
    shown = r"a\|b\<i\>\\x1b\[2J\\nnext.mp4"
    assert f"**1 generated clip is byte for byte in the reference (such as {shown}).**" in page
    assert (
        "real: 1 skipped, in_reference: leak.mp4: its content is in the reference, too, as" in page
    )
    assert "\x1b" not in page and "<i>" not in page


def test_classes_of_any_name_break_no_table_and_no_picture(other: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    for name, source in (("a|b\n<b>", "wood"), ("$c$", "glass")):
        shutil.copytree(other / source, folder / name)
    out = tmp_path / "out"
    evaluate(folder, folder, out, "--metrics", "event-overlap,silent").succeeded()
    page = (out / "report.md").read_text()
    assert r"|  | $c$ | a\|b\\n\<b\> |" in page
    assert (out / "classes.png").is_file()


def test_distances_of_features_are_nothing_between_equal_sets(
    shared: Path, world: Path, tmp_path: Path
) -> None:
    words = ("--metrics", "fad-yamnet,kad,regions-yamnet", "--weights", shared / "weights")
    evaluate(world, world, tmp_path, *words).succeeded()
    found = numbers(tmp_path)
    assert found["fad-yamnet"]["generated"]["value"] == pytest.approx(0, abs=1e-6)
    assert "do not determine a covariance" in found["fad-yamnet"]["generated"]["note"]
    assert found["kad"]["generated"]["value"] < 0 < found["fad-yamnet"]["real"]["value"]
    assert [found[x]["generated"]["expected"] for x in ("kad", "density-yamnet")] == [0, 1]
    # Two windows a clip: the published estimate counts their pairs, and is larger for it.
    assert found["kad"]["real"]["published"] > found["kad"]["real"]["value"]
    page = (tmp_path / "report.md").read_text()
    assert "KAD, YAMNet (as published: generated " in page
    assert "of 1.6 s yamnet hears the first 1.455 s." in page
    assert found["precision-yamnet"]["generated"]["value"] == 1
    assert report(tmp_path)["extractors"]["yamnet"]["sha256"].startswith("797445261da0")
    assert "- \\* Fréchet, YAMNet: " in (tmp_path / "report.md").read_text()


def test_only_runs_on_the_same_terms_are_compared(
    evaluated: Path, world: Path, other: Path, tmp_path: Path
) -> None:
    words = ("--metrics", FREE, "--cache", evaluated / "cache", "--against", evaluated)
    out = evaluate(world, world, tmp_path / "same", *words).succeeded()
    assert "| sound and motion events in common |" in out.partition("the other | difference")[2]
    assert "not compared: n 12 and 8" in out
    sentence = evaluate(other, world, tmp_path / "seed", *words, "--seed", 1).complaint()
    assert "the other report is of another protocol" in sentence
    sentence = evaluate(world, other, tmp_path / "reference", *words).complaint()
    assert "the other report is of another set of reference clips" in sentence
    assert not (tmp_path / "seed" / "report.json").exists()


def test_files_that_cannot_be_used_are_named_and_the_rest_is_measured(
    world: Path, other: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(other / "wood", folder)
    whole = sorted(folder.glob("*.mp4"))[0].read_bytes()
    (folder / "cut.mp4").write_bytes(whole[:200])
    clip = render_clip(ImpactsConfig(), 0).clip
    Clip(clip.frames[:8], clip.waveform[:12_800], 10.0, 16_000).save(folder / "short.mp4")
    Clip(clip.frames, torch.zeros(25_600), 10.0, 16_000).save(folder / "mute.mp4")
    faster = clip.frames.repeat_interleave(2, 0)
    Clip(faster, clip.waveform, 20.0, 16_000).save(folder / "faster.mp4")
    evaluate(folder, world, tmp_path / "out", "--metrics", FREE).succeeded()
    found = report(tmp_path / "out")["sets"]["generated"]
    reasons = {skipped["file"]: skipped["reason"] for skipped in found["skipped"]}
    assert reasons == {"cut.mp4": "unreadable", "short.mp4": "too_short"}
    assert found["alarms"] == {"silent": ["mute.mp4"], "frozen": []} and found["clips"] == 6
    page = (tmp_path / "out" / "report.md").read_text()
    assert "1 skipped, too_short: short.mp4: 0.80 s can be used, a clip needs 1.6 s." in page
    assert "generated: 1 silent: mute.mp4." in page
    assert "1 file with another frame rate than 10" in page and "faster.mp4: 20" in page


def test_model_is_sampled_reconstructed_and_not_sampled_again(world: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(BUNDLED, model)
    index = json.loads((model / "model_index.json").read_text())
    index |= {"num_inference_steps": 1, "guidance_scale": 1.0}
    (model / "model_index.json").write_text(json.dumps(index))
    words = ("--metrics", FREE, "--samples", 4)
    evaluate(model, world, out, *words).succeeded()
    made = contents(out / "samples")
    assert made.keys() == {*(f"{seed:06d}.mp4" for seed in range(4)), "model.json"}
    assert report(out)["sets"]["reconstruction"]["clips"] == 2
    assert numbers(out)["event-overlap"].keys() == {"generated", "real", "reconstruction"}
    (out / "samples" / "000002.mp4").unlink()
    evaluate(model, world, out, *words).succeeded()
    again = contents(out / "samples")
    assert again.keys() == made.keys() and again["000001.mp4"] == made["000001.mp4"]
    # The same clips, read as the model's are.
    own = (*words, "--protocol", "own")
    evaluate(model, world, out, *own).succeeded()
    assert report(out)["protocol"]["name"] == "own"
    assert report(out)["protocol"]["spec"] == index["clip_spec"]
    index["num_inference_steps"] = 2
    (model / "model_index.json").write_text(json.dumps(index))
    assert "holds clips of another model" in evaluate(model, world, out, *words).complaint()


def test_model_makes_pictures_for_held_out_sounds_and_sounds_for_pictures(
    shared: Path, world: Path, tmp_path: Path
) -> None:
    model, made = tmp_path / "model", tmp_path / "made"
    shutil.copytree(BUNDLED, model)
    index = json.loads((model / "model_index.json").read_text())
    index |= {"num_inference_steps": 1, "guidance_scale": 1.0}
    (model / "model_index.json").write_text(json.dumps(index))
    words = (
        "--task",
        "joint,a2v,v2a",
        "--made",
        made,
        "--samples",
        4,
        "--weights",
        shared / "weights",
    )
    out = tmp_path / "64"
    evaluate(model, world, out, *words, "--metrics", "kad,frame-fd,silent").succeeded()
    assert not (out / "samples").exists()
    found = numbers(out)
    assert found["kad"]["audio-to-video"]["note"] == "its sound is given"
    assert found["frame-fd"]["video-to-audio"]["note"] == "its picture is given"
    for number, name in (("frame-fd", "audio-to-video"), ("kad", "video-to-audio")):
        assert found[number][name]["n"] == 4 and found[number][name]["value"] is not None
    assert found["silent"]["video-to-audio"]["n"] == 4
    # Another report of the same clips makes none anew.
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.mp4")}
    assert len(before) == 4 + 4 + 4 + 2
    evaluate(model, world, tmp_path / "again", *words, "--metrics", "silent").succeeded()
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.mp4")} == before


def test_films_are_followed_from_window_to_window_beside_real_ones(tmp_path: Path) -> None:
    spec = ClipSpec(num_frames=64)
    for name, seed in (("real", 1), ("theirs", 2)):
        config = ImpactsConfig(seed=seed, materials=("wood", "glass"), spec=spec, throws_again=True)
        synthesize(tmp_path / name, config, 8, workers=1)
    out, real = tmp_path / "out", tmp_path / "real"
    words = ("--long", "--seconds", 6.4, "--rollouts", 6)
    printed = evaluate(tmp_path / "theirs", real, out, *words).succeeded()
    assert "| films | window 1 | window 2 | window 4 | drift |" in printed
    found = report(out)
    assert found["films"] == {"generated": 6, "real": 4} and found["undefined"] == {}
    told = {number["name"]: number["sets"] for number in found["numbers"]}
    assert {"sync-recall-50", "jitter", "class-kept-seen", "frechet-classes-sound"} <= told.keys()
    # Films of the same world: nothing drifts that real ones do not.
    assert told["ball-kept"]["generated"]["values"] == [1, 1, 1, 1]
    for name in ("class-kept-seen", "sync-recall-50"):
        assert min(told[name]["generated"]["values"]) > 0.7
    assert (
        "All clips had been measured before."
        in evaluate(tmp_path / "theirs", real, out, *words).succeeded()
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--seconds", 4), "--seconds: 6.4 are the least"),
        (("--task", "t2v"), "--task: unknown 't2v'; known are joint, a2v, v2a"),
        (("--metrics", "event-overlap"), "--metrics is for clips"),
        (("--samples", 8), "--samples is for clips"),
        (("--task", "a2v"), "what films of a folder were given is not known"),
        ((), "holds 0 films of 32 s with sound"),
    ],
)
def test_mistake_about_films_is_one_sentence(
    world: Path, evaluated: Path, tmp_path: Path, words: tuple[object, ...], sentence: str
) -> None:
    shutil.copytree(evaluated / "sets", tmp_path / "sets")
    assert sentence in evaluate(world, world, tmp_path, "--long", *words).complaint()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--metrics", "event-overlap,fid"), "--metrics: unknown 'fid'"),
        (("--task", "joint,t2v"), "--task: unknown 't2v'; known are joint, a2v, v2a"),
        (("--task", "a2v,v2a"), "--task: name joint, too"),
        (("--task", "joint,a2v"), "--task and --made are for a model to sample from"),
        (("--windows", "some"), "--windows: 'some' is neither a number nor all"),
        (("--windows", "all", "--samples", "8"), "--windows: 8 clips are asked for"),
        (("--metrics", "fvd"), "I3D needs its weights"),
        (("--protocol", "fvd2048"), "there is no protocol 'fvd2048'"),
        (("--protocol", "own"), "what is evaluated is no model"),
        (("--against", "/nowhere"), "cannot be read as a report"),
        (("--held-out", "/nowhere"), "does not exist"),
    ],
)
def test_mistake_is_one_sentence(
    world: Path, evaluated: Path, tmp_path: Path, words: tuple[object, ...], sentence: str
) -> None:
    shutil.copytree(evaluated / "sets", tmp_path / "out" / "sets")
    assert sentence in evaluate(world, world, tmp_path / "out", *words).complaint()


def test_folders_without_enough_clips_are_one_sentence(world: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(sorted(world.glob("wood/*.mp4"))[0], one)
    out = tmp_path / "out"
    assert "holds no media files" in evaluate(tmp_path / "none", world, out).complaint()
    sentence = evaluate(one, world, out).complaint()
    assert "the generated set" in sentence and "has 1 usable clip, and 2 are the least" in sentence
    assert "4 are the least" in evaluate(world, one, out).complaint()
    assert "does not exist" in evaluate(tmp_path / "nowhere", world, out).complaint()

"""The page of a run is one file that shows and plays what there is, and obeys no name in it."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmldm.data.manifest import Entry, Manifest
from mmldm.errors import UserError
from mmldm.media.clip import Clip
from mmldm.training import report_page
from mmldm.training.curves import MOST_POINTS, by_heart, charts, figure, thinned
from mmldm.training.report_page import write_report_page
from mmldm.training.stage import show_versions
from mmldm.types import AV

from ..smallest import CLIP

EVIL = "<script>alert(1)</script>'\"\x1b[2J.mp4"


def metrics(folder: Path, *records: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has begun its generator, with films, and clips of hostile names."""
    root = tmp_path / "run"
    metrics(
        root / "generator",
        {"step": 10, "model/loss": 2.0},
        {"step": 10, "validate/joint/audio": 1.5, "validate/joint/video": 1.25},
        {"step": 20, "model/loss": 1.0},
        {"step": 20, "validate/joint/audio": 1.75, "validate/joint/video": 1.0},
    )
    frames = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    clip = Clip(frames, torch.linspace(-1, 1, 3200), CLIP.fps, CLIP.sample_rate)
    for step in (10, 20):
        for number in range(2):
            clip.save(root / "generator" / "previews" / f"joint_{step:07d}_{number:03d}.mp4")
        clip.save(root / "generator" / "previews" / f"joint_{step:07d}.png")
    entries = (
        Entry(path="wood/" + EVIL, status="used", split="train", class_name="wood", duration=1.0,
              size=1, mtime_ns=1),
        Entry(path="b.mp4", status="skipped", reason="too_short", note="0.2 s", size=1, mtime_ns=1),
    )  # fmt: skip
    Manifest(root=root, entries=entries).save(root / "manifest.jsonl")
    (root / "config.yaml").write_text(
        "seed: 0\ngenerator: {train: {steps: 40}, note: '</pre><b>'}\n"
    )
    return root


def test_page_plays_the_newest_samples_and_shows_earlier_ones(run: Path) -> None:
    page = write_report_page(run).read_text()
    assert page.count("<video controls") == 2
    assert page.count("src='data:video/mp4;base64,") == 2
    assert page.count("src='data:image/jpeg;base64,") == 2, "the sheets of both steps"
    assert "<h3>At step 20</h3>" in page and "<summary>At step 10</summary>" in page
    assert "20 of 40" in page and "begun" in page


def test_page_asks_for_nothing_and_obeys_no_name(run: Path) -> None:
    page = write_report_page(run).read_text()
    assert "<script" not in page and "</pre><b>" not in page
    assert "&lt;script&gt;" in page and "\\x1b[2J" in page and "\x1b" not in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    for address in re.findall(r"(?:src|href)=['\"]([^'\"]*)", page):
        assert address.startswith("data:"), address


def test_page_says_what_was_skipped_and_that_clips_are_too_few(run: Path) -> None:
    page = write_report_page(run).read_text()
    assert "<td>b.mp4</td><td>too_short</td><td>0.2 s</td>" in page
    assert "1 clip to train on: too few" in page
    assert "Used: 1" in page


def test_the_same_folder_gives_the_same_page(run: Path) -> None:
    first = write_report_page(run).read_bytes()
    (run / "generator" / "train.log").write_text("2026-01-01 00:00:00 already done\n")
    assert write_report_page(run).read_bytes() == first


def test_large_samples_are_linked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "LARGEST_SAMPLE", 10)
    page = write_report_page(run).read_text()
    assert "data:video" not in page
    assert "src='generator/previews/joint_0000020_000.mp4'" in page


def test_page_that_cannot_be_written_leaves_the_old_one(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_report_page(run).read_bytes()

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    metrics(run / "vae", {"step": 1, "model/loss": 1.0})
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_report_page(run)
    monkeypatch.undo()
    assert (run / "report.html").read_bytes() == before
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["config.yaml", "manifest.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\0\xff\xfe", b"[" * 5000, None])
def test_damaged_files_cost_their_section_alone(
    run: Path, name: str, content: bytes | None
) -> None:
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    page = write_report_page(run).read_text()
    assert "<h2>Recipe</h2>" in page and page.count("<video controls") == 2


def test_versions_of_a_clip_say_what_they_are(tmp_path: Path) -> None:
    media = AV(torch.zeros(1, 3200), torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8))
    folder = tmp_path / "vae" / "previews"
    show_versions({"real": media, "image VAE": media}, CLIP, folder, "reconstruction_0000010")
    metrics(tmp_path / "vae", {"step": 10, "model/loss": 1.0})
    page = write_report_page(tmp_path).read_text()
    assert "<figcaption>real 0</figcaption>" in page
    assert "<figcaption>image VAE 0</figcaption>" in page
    with Image.open(folder / "reconstruction_0000010.png") as sheet:
        assert sheet.height > 2 * 100


def test_curves_are_grouped_and_explained() -> None:
    records = [
        {"step": 10, "model/loss": 2.0, "learning_rate": 1.0},
        {"step": 10, "validate/joint/audio": 1.0, "validate/psnr/video": 20.0, "validate/new": 3.0},
        {"step": 20, "validate/joint/audio": 1.5, "validate/audio_only/audio": 2.0},
        {"step": 30, "model/loss": None, "validate/psnr/video": 25.0},
    ]
    found = {chart.title: chart for chart in charts(records)}
    assert list(found) == ["model/loss", "error of audio", "psnr", "new"]
    assert found["error of audio"].lines == {
        "joint": [(10, 1.0), (20, 1.5)], "audio_only": [(20, 2.0)]
    }  # fmt: skip
    assert "joint was best at step 10 (1), and is 1.5 now" in found["error of audio"].sentence
    assert "video is best now, at step 30" in found["psnr"].sentence
    assert "<polyline" in figure(found["psnr"]) and "<polyline" not in figure(found["new"])


def test_long_curves_are_thinned_and_stay_in_the_picture() -> None:
    points = [(step, 1000.0 if step < 5 else 1 / step) for step in range(1, 5001)]
    assert len(thinned(points)) <= MOST_POINTS and thinned(points)[-1][0] == 5000
    records = [{"step": step, "model/loss": value} for step, value in points]
    [chart] = charts(records)
    heights = [float(y) for y in re.findall(r",(-?[\d.]+)", figure(chart).split("points=")[-1])]
    assert heights and all(0 <= height <= 200 for height in heights)


def test_held_out_error_that_rises_is_told() -> None:
    def records(*values: float) -> list[dict]:
        return [
            {"step": step, "validate/joint/audio": value, "validate/joint/video": 0.3}
            for step, value in enumerate(values, 1)
        ]

    assert by_heart(records(1.2, 0.96, 1.32)) == (
        "the held-out error rose, of audio from 0.96 at step 2 to 1.3: it learns the training clips by "
        "heart. More clips help, more steps do not"
    )
    assert by_heart(records(1.2, 0.96, 1.0)) == "", "that much is chance"
    assert by_heart([{"step": 1, "validate/psnr/audio": 20.0}]) == ""

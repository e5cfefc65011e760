"""`mmldm train` in several processes: rank 0 looks, writes and refuses for all."""

from pathlib import Path

import pytest

from mmldm.training.report import METRICS, read_metrics
from mmldm.training.stopping import run_lock

from .commandline import together

pytestmark = pytest.mark.slow


def test_only_the_first_process_scans_the_clips(
    clip_folder: Path, recipe: Path, tmp_path: Path
) -> None:
    """The other one is told of an empty folder, and trains on what the first has found."""
    run, nothing = tmp_path / "run", tmp_path / "nothing"
    nothing.mkdir()
    words = ("train", "vae", "--config", recipe, "--out", run, "--device", "cpu", "--set")
    first, second = together(
        (*words, f"data.folder={clip_folder}"), (*words, f"data.folder={nothing}")
    )
    assert "10 media files, 10 usable" in first.succeeded()
    assert second.succeeded() == ""
    assert read_metrics(run / "vae" / METRICS)[-1]["step"] == 2
    assert (run / "vae" / "export").is_dir()


def test_what_the_first_process_is_refused_ends_all_of_them_with_one_sentence(
    clip_folder: Path, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("train", clip_folder, "--config", recipe, "--out", run, "--device", "cpu")
    with run_lock(run, print):
        first, second = together(words, words)
    assert f"{run}: already in use by process" in first.complaint()
    assert (second.code, second.out, "mmldm: " in second.err) == (2, "", False)

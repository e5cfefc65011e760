"""Every file of the hostile collection ends in an outcome its list expects, within bounds."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmldm.data.folder import MEDIA_SUFFIXES
from mmldm.data.manifest import Manifest
from mmldm.data.scan import scan
from mmldm.media.container import Limits
from mmldm.media.isolated import Outcome, run_isolated
from mmldm.media.probe import probe_apart
from mmldm.types import ClipSpec

pytestmark = pytest.mark.slow

SECONDS = 3600.0
"""What hangs is pytest's to end: on a slow machine no file here may be a `timeout`."""
MEMORY_KB = 400_000  # measured 213 MB over these files, 215 MB over the real clips

READ_ALL = """
import pathlib, resource, sys
from mmldm.errors import MediaError
from mmldm.media.probe import probe
for path in sys.argv[1:]:
    try:
        probe(path)
    except MediaError:
        pass
status = pathlib.Path("/proc/self/status")
if status.exists():  # ru_maxrss would count the process that started this one
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    print(lines["VmHWM"].split()[0])
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

# What each kind of wording in the list's `expected` column allows. `used` covers notes too.
USED, NOTED = {"used", "used_with_note"}, {"used_with_note"}
UNREADABLE = {"unreadable", "format_not_allowed"}
EXPECTED = {
    "OK; best or first track, said in the report": NOTED,
    "OK with decode-error count, or SKIP corrupt": NOTED | {"corrupt"},
    "OK with decode-error count": NOTED | {"corrupt"},  # 1.5 s are left, less than a clip
    "OK; windows beyond the sound skipped or padded, counted": {"too_short"},
    "OK; window limited to the overlap": {"too_short"},  # 1 s of both, less than a clip
    "OK; leading gap filled with silence, not shifted": NOTED,
    "OK decoded frame by frame or SKIP too_large; peak memory bounded": {"too_large"},
    "OK first part or SKIP format_change; never crash": {"format_change"},
    "SKIP non_finite (or cleaned and counted); must never reach the loss": {"non_finite"},
    "SKIP truncated, or windows before the cut": {"corrupt", "too_short"},
    "SKIP corrupt; never crash or hang": {"corrupt"},
    "SKIP corrupt": {"no_audio"},  # the file has no sound either, and that is known first
    "SKIP no_audio/truncated": {"no_audio"},
    "SKIP no_audio/too_short": {"no_audio", "too_short", "format_not_allowed"},
    "SKIP too_short": {"too_short", "corrupt"},  # `corrupt` where the decoder complained as well
    "OK (upscaled) or SKIP too_small": USED,
    "OK / SKIP silent by option": NOTED,
    "OK / SKIP silent by option; log of zero must not give -inf/NaN": NOTED,
    "OK duration found by decoding / SKIP silent": NOTED,
    "SKIP unreadable": UNREADABLE,
    "ignored": {"no_video"},
    "ignored by the folder scan, or OK when named": USED,
    "load must refuse: not safetensors / weights_only error": UNREADABLE,
    "SKIP no_video": {"no_video", "format_not_allowed"},
    "SKIP no_audio": {"no_audio", "format_not_allowed"},
}


def accepted(expected: str) -> set[str]:
    if expected in EXPECTED:
        return EXPECTED[expected]
    if expected.startswith("SKIP no_audio"):
        return EXPECTED["SKIP no_audio"]
    if expected.startswith("SKIP format_not_allowed"):
        return UNREADABLE
    assert expected.startswith("OK"), f"no rule for {expected!r}"
    return USED


def listed(shared: Path) -> dict[str, str]:
    with (shared / "nasty/MANIFEST.csv").open(newline="") as file:
        return {row["file"]: row["expected"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def manifest(shared: Path) -> Manifest:
    limits = Limits(seconds=SECONDS)
    return scan(shared / "nasty", ClipSpec(), workers=2, limits=limits)


@pytest.fixture(scope="module")
def unscanned(shared: Path) -> dict[str, Outcome]:
    """Outcomes of the files that a scan passes over by their suffix, read by name."""
    names = [name for name in listed(shared) if Path(name).suffix.lower() not in MEDIA_SUFFIXES]
    calls: list[tuple[str, dict[str, object]]] = [
        (str(shared / "nasty" / name), {}) for name in names
    ]
    outcomes = run_isolated(probe_apart, calls, workers=1, seconds=SECONDS)
    return {names[outcome.index]: outcome for outcome in outcomes}


def test_every_file_has_an_expected_outcome(
    shared: Path, manifest: Manifest, unscanned: dict[str, Outcome]
) -> None:
    got = {row.path: row.reason or row.status for row in manifest.entries}
    got |= {name: outcome.reason or "used" for name, outcome in unscanned.items()}
    expected = listed(shared)
    assert got.keys() == expected.keys()
    wrong = {name: (got[name], expected[name]) for name in got
             if got[name] not in accepted(expected[name])}  # fmt: skip
    assert wrong == {}


def test_counts_add_up(shared: Path, manifest: Manifest) -> None:
    files = [path for path in (shared / "nasty").rglob("*") if path.is_file()]
    used = sum(row.usable for row in manifest.entries)
    skipped = sum(row.reason is not None for row in manifest.entries)
    assert used + skipped == len(manifest.entries)
    assert len(manifest.entries) + sum(manifest.ignored.values()) == len(files)
    assert len(manifest.split("train")) + len(manifest.split("held_out")) == used


def test_silence_is_skipped_by_option(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "silent.mp4").symlink_to(shared / "nasty/made/silent_digital.mp4")
    listing = tmp_path / "list.jsonl"
    listing.write_text('{"path": "silent.mp4"}\n')
    for skip_silent, outcome in ((False, None), (True, "silent")):
        (row,) = scan(listing, ClipSpec(), workers=1, skip_silent=skip_silent).entries
        assert row.reason == outcome


def test_memory_stays_bounded(shared: Path) -> None:
    """One process reads every file, then says the most memory it ever held."""
    paths = [str(shared / "nasty" / name) for name in listed(shared)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-c", READ_ALL, *paths],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    assert int(result.stdout) < MEMORY_KB


@pytest.mark.smoke
def test_all_real_clips_are_read(shared: Path) -> None:
    manifest = scan(shared / "clips", ClipSpec(), workers=2)
    with (shared / "clips/MANIFEST.csv").open(newline="") as file:
        durations = {
            row["name"]: min(int(row["frames"]) / float(row["fps"]), float(row["asec"]))
            for row in csv.DictReader(file)
        }
    assert len(manifest.entries) == len(durations) == 92
    assert {row.path: row.reason for row in manifest.entries if not row.usable} == {
        "bbb_1s_vp8.webm": "too_short"
    }
    assert all(row.decode_errors == 0 for row in manifest.entries)
    for row in manifest.usable:
        assert row.duration == pytest.approx(durations[row.path], abs=0.12)

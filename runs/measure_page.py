"""What the page costs, and what it may take for alike: python runs/measure_page.py [MODEL] [--alike].

Opens `mmldm app`, asks by `gradio_client` for one clip after the other, and says memory and time. --alike
says instead how far apart sounds for one picture, and pictures for one sound, are by seeds (docs/page.md).
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mmldm.media.clip import Clip

GIVEN, SEEDS = 8, 4
"""Pictures and sounds that are given, and results for each."""
EVERY = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--alike", action="store_true")
    options = parser.parse_args()
    if options.alike:
        alike(options.model)
    else:
        cost(options.model, options.requests)


def cost(model: str | None, requests: int) -> None:
    """Memory and time of a page in a process of its own."""
    from gradio_client import Client

    command = [sys.executable, "-m", "mmldm", "app", "--no-browser"]
    command += [] if model is None else ["--model", model]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served,
    ):
        assert served.stdout is not None
        said = next(line for line in served.stdout if "the page is at" in line)
        print(f"idle: {resident(served.pid)} MB, {cpu(served.pid):.1f} s of CPU time")
        client = Client(said.split()[-1], verbose=False, download_files=folder)
        for number in range(requests):
            begun, before = time.monotonic(), cpu(served.pid)
            asked = {"class_name": "", "seconds": None, "seed": number, "quality": ""}
            client.predict(**asked, results=4 if number == 0 else 1, api_name="/make")
            if number % EVERY in (0, EVERY - 1):
                lasted, spent = time.monotonic() - begun, cpu(served.pid) - before
                times = f"{lasted:.1f} s, {spent:.1f} s of CPU time"
                print(f"request {number + 1}: {times}, {resident(served.pid)} MB")
        served.terminate()


def resident(pid: int) -> int:
    """Megabytes that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) // 1024


def cpu(pid: int) -> float:
    """Seconds of CPU time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def alike(model: str | None) -> None:
    """Distances of results for one given picture or sound, for different ones, and of joint clips."""
    from mmldm.cli.generate import load_model
    from mmldm.evaluation.reconstruction import clip_mel_error, psnr
    from mmldm.media.spectrogram import AudioImage

    pipeline = load_model(model, None)
    audio_image = AudioImage(pipeline.clip_spec)
    joint = pipeline(num_samples=GIVEN + 2, seed=500).clips

    def sounds(clips: Sequence[Clip]) -> list[float]:
        """dB between the sounds of each two."""
        pairs = itertools.combinations(clips, 2)
        return [clip_mel_error(a.waveform, b.waveform, audio_image) for a, b in pairs]

    def pictures(clips: Sequence[Clip]) -> list[float]:
        """PSNR between the pictures of each two."""
        pairs = itertools.combinations(clips, 2)
        return [psnr(a.frames[None], b.frames[None]).item() for a, b in pairs]

    heard = [
        pipeline(frames=[c.frames] * SEEDS, seed=1000 * i).clips
        for i, c in enumerate(joint[:GIVEN])
    ]
    seen = [
        pipeline(audio=[c.waveform] * SEEDS, seed=1000 * i).clips
        for i, c in enumerate(joint[:GIVEN])
    ]
    rows = {
        "sounds for one picture, dB": [x for clips in heard for x in sounds(clips)],
        "sounds for different pictures, dB": sounds([clips[0] for clips in heard]),
        "sounds of joint clips, dB": sounds(joint),
        "pictures for one sound, PSNR": [x for clips in seen for x in pictures(clips)],
        "pictures for different sounds, PSNR": pictures([clips[0] for clips in seen]),
        "pictures of joint clips, PSNR": pictures(joint),
    }
    for name, values in rows.items():
        ranked = sorted(values)
        middle, count = ranked[len(ranked) // 2], len(ranked)
        print(f"{name}: {middle:.2f} [{ranked[0]:.2f}, {ranked[-1]:.2f}], {count} pairs")


if __name__ == "__main__":
    main()

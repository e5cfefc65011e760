"""Makes the long films of the README: python runs/long_films.py RECORDINGS [--model MODEL].

RECORDINGS is a folder of single hits (those of the README: Debian's `sonic-pi-samples`, CC0). They are set
one after another, at intervals that a seed draws, into thirty seconds of sound. The throws of twenty seconds
are of `mmldm synthesize`, from a seed that no training used. Nothing is chosen: all other seeds are 0.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from mmldm.media.reader import read_audio
from mmldm.media.writer import write_wav
from mmldm.types import ClipSpec

HITS = ("drum_bass_*", "drum_snare_*", "drum_tom_*", "drum_cowbell*", "tabla_*")
SECONDS = 30.0
INTERVALS = (0.5, 0.7, 0.9, 1.2)
"""Between two hits, in seconds."""
PEAK = 0.5
RATE = 44_100
THROWS_SEED = 90_007


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--model", help="default: the bundled one")
    parser.add_argument("--media", type=Path, default=Path("docs/media"))
    options = parser.parse_args()
    model = () if options.model is None else ("--model", options.model)
    options.media.mkdir(parents=True, exist_ok=True)

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)

        def make(name: str, *command: str) -> Path:
            """Runs one command of `mmldm`, and puts its film into the media folder under this name."""
            out = work / name
            call = ["mmldm", *command, *model, "--out", str(out)]
            print("$", shlex.join(call).replace(str(work), "."), flush=True)
            subprocess.run([sys.executable, "-m", *call], check=True)
            film = options.media / f"{name}.mp4"
            shutil.copyfile(next(out.rglob("*.mp4")), film)
            return film

        percussion, throws = work / "percussion.wav", work / "throws"
        write_hits(options.recordings, percussion)
        synthesize = ("synthesize", throws, "--clips", "1", "--seconds", "20", "--size", "128")
        subprocess.run(
            [sys.executable, "-m", "mmldm", *map(str, synthesize), "--seed", str(THROWS_SEED)],
            check=True,
        )
        make("endless", "generate", "-n", "1", "--seconds", "60")
        make("percussion", "generate", "-n", "1", "--audio", str(percussion))
        make("throws", "generate", "-n", "1", "--video", str(next(throws.rglob("*.mp4"))))
        beginning = make("beginning", "generate", "-n", "1")
        extended = make("extended", "extend", str(beginning), "--seconds", "6.4")
        make("retaken", "retake", str(extended), "--from", "3.2", "--to", "4.8")
        beginning.unlink()


def write_hits(folder: Path, target: Path) -> None:
    """Thirty seconds of recorded hits as a 16-bit mono wav file."""
    spec = ClipSpec(sample_rate=RATE)
    files = sorted(file for pattern in HITS for file in folder.glob(f"{pattern}.*"))
    if not files:
        raise SystemExit(f"{folder} holds none of {', '.join(HITS)}")
    rng, sound, at = np.random.default_rng(0), np.zeros(round(SECONDS * RATE)), 0.5
    while at < SECONDS - 0.5:
        hit = read_audio(files[rng.integers(len(files))], spec).numpy()
        hit = hit * (PEAK / max(float(abs(hit).max()), 1e-4))
        first = round(at * RATE)
        part = sound[first : first + len(hit)]
        part += hit[: len(part)]
        at += float(rng.choice(INTERVALS))
    write_wav(target, torch.from_numpy(sound), RATE)


if __name__ == "__main__":
    main()

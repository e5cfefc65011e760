"""Makes clips with a model and saves them: jointly, then a picture for a given sound.

    python examples/generate.py [MODEL] [OUT]

MODEL is a model folder of `mmldm train`, "impacts", the model in the package, or in a checkout "freedoom".
"""

import sys
from pathlib import Path

from mmldm import SoundingVideoPipeline


def main(model: str = "impacts", out: str = "out") -> None:
    pipeline = SoundingVideoPipeline.from_pretrained(model)

    # Seeds 0 and 1, picture and sound together. A clip depends on its own seed only.
    joint = pipeline(num_samples=2, seed=0).clips
    for seed, clip in enumerate(joint):
        print(clip.save(Path(out) / f"joint_{seed}.mp4"))

    # The first clip's sound is given; three pictures are made for it.
    sound = joint[0].waveform
    for seed, clip in enumerate(pipeline(num_samples=3, audio=sound, seed=0).clips):
        print(clip.save(Path(out) / f"for_the_sound_{seed}.mp4"))


if __name__ == "__main__":
    main(*sys.argv[1:])

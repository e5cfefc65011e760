"""Trains on a folder of clips, in Python: what `mmldm train` does, without its options.

    python examples/train_on_a_folder.py CLIPS OUT [MINUTES] [KEY=VALUE ...]

KEY=VALUE changes the recipe, such as `generator.train.steps=2000`. Started again, it goes on where it was.
"""

import sys
from pathlib import Path

from mmldm import load_config
from mmldm.cli.terminal import ProgressLine
from mmldm.config import changed
from mmldm.training.distributed import process_group
from mmldm.training.recipe import choose_recipe, tiny_recipe
from mmldm.training.run import Run, jobs_of
from mmldm.training.run_clips import claim, find_manifest
from mmldm.training.run_folder import RunFolder


def main(clips: str, out: str, minutes: str = "60", *changes: str) -> Path:
    folder = RunFolder(Path(out))
    with ProgressLine() as line, process_group(None) as process:
        # Which files can be used, and which are held out.
        begun = folder.config.is_file()
        reading = load_config(folder.config) if begun else changed(tiny_recipe(), changes)
        manifest = find_manifest(folder, clips, reading, line)
        print(manifest.summary())

        # Sizes and steps for these clips and this machine, unless the folder has a recipe.
        recipe = reading if begun else choose_recipe(manifest, float(minutes), changes)

        # Image VAE, autoencoder, generator; each is skipped where it is finished.
        with claim(folder, recipe, manifest, process) as recorded:
            run = Run(recipe, folder, recorded, process, line.console, line)
            for job in jobs_of(recipe):
                run.run(job)
    print(f"model: {folder.model}")
    return folder.model


if __name__ == "__main__":
    main(*sys.argv[1:])

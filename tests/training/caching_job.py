"""The caches of a run, in blocks of few windows, under torchrun or alone.

python caching_job.py RUN BLOCK_WINDOWS [PIECES]: after so many pieces the process kills itself.
"""

import os
import signal
import sys
from pathlib import Path

from rich.console import Console

from mmldm.data import blocks
from mmldm.data.manifest import Manifest
from mmldm.errors import UserError
from mmldm.training.distributed import process_group
from mmldm.training.run import Run
from mmldm.training.run_folder import RunFolder

if str(Path(__file__).parents[1]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[1]))
from smallest import smallest_recipe  # type: ignore[import-not-found]

if __name__ == "__main__":
    folder = RunFolder(Path(sys.argv[1]))
    blocks.BLOCK_WINDOWS = int(sys.argv[2])
    config = smallest_recipe()
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"windows_per_clip": 3})}
    )
    pieces = int(sys.argv[3]) if len(sys.argv) > 3 else -1

    def progress(what: str, done: int, total: int) -> None:
        global pieces
        pieces -= 1
        if pieces == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with process_group("cpu") as process:
        manifest = Manifest.load(folder.manifest)
        run = Run(config, folder, manifest, process, Console(), progress)
        try:
            run.latents()
        except UserError as error:
            print(f"rank {process.rank}: {type(error).__name__}: {error}", flush=True)
        if process.is_main:
            print("\n".join(run.notes), flush=True)

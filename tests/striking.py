"""A program that runs another and signals its whole process group at an event, not at a time.

python striking.py MOMENT COUNT SIGNAL FOLDER (-m MODULE | FILE) ARGUMENT ...

The signal strikes the COUNT-th time that MOMENT comes: `turn`, before a turn of a training step, so between
two turns where a job has two; `write`, once a file of a checkpoint below FOLDER/checkpoints is on the disk
and the checkpoint is not whole yet. The program must be started in a process group of its own, which loading
processes share. Of several processes that train together the first one is struck.
"""

import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    moment, count, name, folder, *program = sys.argv[1:]
    number = signal.Signals[name]
    left = int(count)

    def strike() -> None:
        nonlocal left
        left -= 1
        if left == 0 and os.environ.get("RANK", "0") == "0":
            os.killpg(os.getpid(), number)

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def struck(*arguments: Any) -> Any:
            if moment == "turn" or any(Path(folder).glob("checkpoints/.*.partial/*.safetensors")):
                strike()
            return function(*arguments)

        return struck

    if moment == "turn":
        from mmldm.training.optim import Turn

        Turn.step = before(Turn.step)  # type: ignore[method-assign]
    else:
        os.fsync = before(os.fsync)
    if program[0] == "-m":
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    main()

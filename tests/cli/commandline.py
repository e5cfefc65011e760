"""The command line as a person meets it: words in; exit code, results and complaints out."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from mmldm.cli.main import run

SOURCE = Path(__file__).parents[2] / "src"
STRIKING = Path(__file__).parents[1] / "striking.py"
COMMAND = (sys.executable, "-m", "mmldm")
PATIENCE = 1500.0
"""Seconds after which a command counts as hanging, on however slow a machine."""
NOISE = ("Traceback", "ValidationError", "pydantic", 'File "', "%|")


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    def succeeded(self) -> str:
        """What it printed; fails the test if it complained."""
        assert self.code == 0, self.err
        assert not [word for word in NOISE if word in self.out + self.err], self.err
        return self.out

    def complaint(self) -> str:
        """The sentence of a mistake; fails the test if it is anything else."""
        assert self.code == 2, self.out + self.err
        assert not [word for word in NOISE if word in self.out + self.err], self.err
        lines = [line for line in self.err.splitlines() if line.startswith("mmldm: ")]
        assert len(lines) == 1, self.err
        return lines[0].removeprefix("mmldm: ")


def mmldm(*words: object) -> Result:
    """Runs the console script's entry point in this process."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["mmldm", *map(str, words)]
    code: int | str | None = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            run()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    return Result(int(code or 0), out.getvalue(), err.getvalue())


def environment() -> dict[str, str]:
    """One thread, and the tree under test importable."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1"}


def in_process(
    *words: object, largest_file: int | None = None, strike: Sequence[object] = ()
) -> Result:
    """Runs `mmldm` in a process of its own.

    Args:
        largest_file: Bytes beyond which no file may grow.
        strike: First arguments of tests/striking.py: the process signals itself.
    """
    command = [*COMMAND, *map(str, words)]
    if largest_file is not None:
        limit = (
            "import resource, runpy, sys;"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file}, {largest_file}));"
            "sys.argv[0] = 'mmldm'; runpy.run_module('mmldm', run_name='__main__')"
        )
        command = [sys.executable, "-c", limit, *map(str, words)]
    if strike:
        command = [sys.executable, str(STRIKING), *map(str, strike), *command[1:]]
    done = subprocess.run(
        command,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        start_new_session=bool(strike),
    )
    return Result(done.returncode, done.stdout, done.stderr)


def together(*commands: Sequence[object]) -> list[Result]:
    """Runs several `mmldm` as the processes of one group, rank by rank, as `torchrun` does."""
    # Ours, as torchrun's is its own: a port that is only looked up may be another's a moment later.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = []
    for rank, words in enumerate(commands):
        group = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(commands),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port,
            "TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0,
        }  # fmt: skip
        processes.append(
            subprocess.Popen(
                [*COMMAND, *map(str, words)],
                env={**environment(), **{name: str(value) for name, value in group.items()}},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        ends = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Result(p.returncode, *end) for p, end in zip(processes, ends, strict=True)]


def interrupted(
    *words: object,
    progress: Callable[[], int],
    presses: int = 1,
    number: signal.Signals = signal.SIGINT,
) -> Result:
    """Starts `mmldm`, sends it Ctrl-C's signal or another once three of its `progress()` are done, and waits.

    A keypress that falls into a destructor is lost, as for a person, who then presses again: here, once the
    work has visibly gone on.
    """
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def work_until(done: int) -> bool:
        while process.poll() is None:
            if progress() >= done:
                return True
            time.sleep(0.01)
        return False

    wanted = 3
    while presses > 0 and work_until(wanted):
        os.killpg(process.pid, number)
        wanted, presses = progress() + 20, presses - 1
    out, err = process.communicate(timeout=PATIENCE)
    return Result(process.returncode, out, err)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

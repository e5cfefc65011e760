"""The command line as a person meets it: words in; exit code, results and complaints out."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from mmldm.cli.main import run

SOURCE = Path(__file__).parents[2] / "src"
COMMAND = (sys.executable, "-m", "mmldm")
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


def in_process(*words: object, largest_file: int | None = None, timeout: float = 120) -> Result:
    """Runs `mmldm` in a process of its own, where no file may grow beyond `largest_file` bytes."""
    command = [*COMMAND, *map(str, words)]
    if largest_file is not None:
        limit = (
            "import resource, runpy, sys;"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file}, {largest_file}));"
            "sys.argv[0] = 'mmldm'; runpy.run_module('mmldm', run_name='__main__')"
        )
        command = [sys.executable, "-c", limit, *map(str, words)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


def together(*commands: Sequence[object], timeout: float = 120) -> list[Result]:
    """Runs several `mmldm` as the processes of one group, rank by rank, as `torchrun` does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = []
    for rank, words in enumerate(commands):
        group = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(commands),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
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
        ends = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [Result(p.returncode, *end) for p, end in zip(processes, ends, strict=True)]


def interrupted(
    *words: object, when: Callable[[], bool], presses: int = 1, timeout: float = 60
) -> Result:
    """Starts `mmldm`, presses Ctrl-C once `when()`, and waits.

    A keypress that falls into a destructor is lost, as for a person, who then presses again.
    """
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + timeout
    while not when() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    for press in range(1, presses + 1):
        os.killpg(process.pid, signal.SIGINT)
        try:
            out, err = process.communicate(timeout=timeout if press == presses else 5)
        except subprocess.TimeoutExpired:
            continue
        break
    return Result(process.returncode, out, err)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

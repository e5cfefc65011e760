"""Folders of clips are made by processes; one that is killed is a sentence, and the folder goes on."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mmldm.errors import UserError
from mmldm.types import ClipSpec
from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

pytestmark = pytest.mark.slow


def tiny():
    return ImpactsConfig(spec=ClipSpec(height=32, width=32, num_frames=8))


def others() -> set[int]:
    return {process.pid for process in multiprocessing.active_children()}


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups here")
def test_killed_worker_is_a_sentence_and_finished_clips_are_kept(tmp_path):
    before = others()
    struck: list[int] = []

    def strike(done: int, total: int) -> None:
        if not struck:
            struck.append((others() - before).pop())
            os.kill(struck[0], signal.SIGKILL)

    with pytest.raises(UserError, match="a worker process died while writing clips"):
        synthesize(tmp_path, tiny(), 60, workers=2, progress=strike)
    assert others() == before
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.json")}
    assert 0 < len(finished) < 60
    written = synthesize(tmp_path, tiny(), 60, workers=1)
    assert written == 60 - len(finished)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())
    assert not [path for path in tmp_path.rglob(".*.tmp*")]


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups here")
def test_workers_end_with_the_process_that_began_them(tmp_path):
    program = textwrap.dedent(
        """
        import multiprocessing, os, signal, sys
        from mmldm.types import ClipSpec
        from mmldm.worlds.impacts.clips import ImpactsConfig, synthesize

        def strike(done, total):
            workers = [process.pid for process in multiprocessing.active_children()]
            print(*workers, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

        if __name__ == "__main__":
            spec = ClipSpec(height=32, width=32, num_frames=8)
            synthesize(sys.argv[1], ImpactsConfig(spec=spec), 600, workers=2, progress=strike)
        """
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    # The workers hold the other end of the pipe, so it ends when the last of them has ended.
    words = [sys.executable, str(script), str(tmp_path / "clips")]
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": source}
    )
    assert done.returncode == -signal.SIGKILL and len(done.stdout.split()) == 2

"""Folders of rendered clips, of any world: whole, resumable, never mixed, and made by several processes.

(config, index) -> folder/<class>/<index>.mp4, and beside it <index>.json with what is true of the clip
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from pydantic import BaseModel

from mmldm.errors import UserError, first_line
from mmldm.files import write_json
from mmldm.strict import parse

Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True)
class World(Generic[Config]):
    """How clips of a world are made. Processes are handed it, so its functions are those of a module.

    Attributes:
        name: As sentences say it.
        description: The file in a folder of clips that holds their configuration.
        config: Its class.
        class_of: Of clip `index`.
        write: Writes the mp4 of clip `index` at a path, and returns its ground truth, ready for JSON.
        chunk: Clips that a process takes at once.
        indent: Of the ground truth's JSON; None: all in one line.
    """

    name: str
    description: str
    config: type[Config]
    class_of: Callable[[Config, int], str]
    write: Callable[[Config, int, Path], dict[str, Any]]
    chunk: int = 8
    indent: int | None = 1

    def truth_path(self, folder: Path, config: Config, index: int) -> Path:
        """Where the ground truth of a clip is; the mp4 has the same stem."""
        return folder / self.class_of(config, index) / f"{index:06d}.json"

    def is_whole(self, folder: Path, config: Config, index: int) -> bool:
        """Whether a clip is there; its ground truth is written last."""
        truth = self.truth_path(folder, config, index)
        return truth.is_file() and truth.with_suffix(".mp4").is_file()


def write_clips(
    world: World[Config],
    folder: Path,
    config: Config,
    clips: int,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes clips 0 to `clips` - 1 with their ground truth, and the folder's description.

    Clips that are already whole are kept, so an interrupted call can be repeated and a folder can be
    extended.

    Args:
        workers: Processes; None for one per core. With 1 all is done in this process.
        progress: Called with (clips finished, clips asked for).

    Returns:
        Number of clips written now.

    Raises:
        UserError: The folder cannot be written, or holds something else; a process died.
    """
    _claim(world, folder, config)
    missing = [index for index in range(clips) if not world.is_whole(folder, config, index)]
    finished = clips - len(missing)
    workers = min(workers or os.cpu_count() or 1, max(len(missing), 1))
    write = partial(_write_clip, world, folder, config)
    for count, _ in enumerate(_run(write, missing, workers, world.chunk), start=finished + 1):
        if progress:
            progress(count, clips)
    return len(missing)


def _write_clip(world: World[Config], folder: Path, config: Config, index: int) -> None:
    path = world.truth_path(folder, config, index)
    truth = world.write(config, index, path.with_suffix(".mp4"))
    # Last, as a clip counts as whole when its ground truth is there.
    write_json(path, truth, world.indent)


def _run(
    write: Callable[[int], None], indices: list[int], workers: int, chunk: int
) -> Iterator[None]:
    if workers == 1:
        yield from map(write, indices)
        return
    # Spawned, not forked: torch may already have threads. Each process draws with one thread.
    spawn = multiprocessing.get_context("spawn")
    others = {process.pid for process in multiprocessing.active_children()}
    with ProcessPoolExecutor(workers, spawn, _begin_worker) as pool:
        written = pool.map(write, indices, chunksize=chunk)
        begun = {process.pid for process in multiprocessing.active_children()} - others
        try:
            yield from written
        except BaseException as error:
            # Before the pool waits for them; and what a worker that died has started goes, too.
            for pid in begun:
                _end_group(pid)
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    "a worker process died while writing clips (out of memory?); repeat the command "
                    "with fewer workers, finished clips are kept"
                ) from error
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Draws with one thread, in a process group of its own that ends with the process that began it."""
    torch.set_num_threads(1)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    # What a worker starts must not hold the pipe by whose end its death is noticed.
    for descriptor in Path("/dev/fd").glob("*"):
        if int(descriptor.name) > 2:
            with suppress(OSError):
                os.set_inheritable(int(descriptor.name), False)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        _end_group(os.getpid())


def _end_group(pid: int | None) -> None:
    """Ends a worker and all that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        if pid and hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        elif pid:
            os.kill(pid, signal.SIGTERM)


def _claim(world: World[Config], folder: Path, config: Config) -> None:
    """Makes `folder` this configuration's, or checks that it already is."""
    described = folder / world.description
    if described.is_file():
        found = _read_config(world, described)
        if found != config:
            there, wanted = found.model_dump(), config.model_dump()
            changed = sorted(key for key in wanted if wanted[key] != there[key])
            raise UserError(
                f"{folder} holds clips of another configuration ({', '.join(changed)} differ); "
                "name another folder"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} is not empty and has no {world.description}; name another folder"
        )
    write_json(described, config.model_dump(mode="json"))


def _read_config(world: World[Config], path: Path) -> Config:
    """The configuration of a folder; what an older one does not know has its default."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({first_line(error)}); name another folder"
        ) from error
    return parse(world.config, found, f"{path} is no description of a folder of {world.name} clips")

"""What visitors have made: a folder for each, which nobody else is served from, and an hour of life.

visitor -> `Sitting` (folder, entries newest first, uploads); file -> its owner; time -> what is deleted
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mmldm.app.safety import Bounds
from mmldm.errors import UserError

PREFIX = "mmldm-app-"
SWEEP_EVERY = 60.0
"""Seconds."""


@dataclass(frozen=True)
class Result:
    """One clip on the page, and its files.

    Attributes:
        id: That names it in requests; its files begin with it.
        folder: Of its sitting.
        seed: From which it was made; None of what has none.
        class_name: That it was asked for, or that its seed drew.
        seconds: Its length.
        alike: Results of the same entry that are nearly the same, and so are not shown.
    """

    id: str
    folder: Path
    title: str
    seed: int | None
    class_name: str | None
    seconds: float
    alike: tuple[Result, ...] = ()

    @property
    def mp4(self) -> Path:
        return self.folder / f"{self.id}.mp4"

    @property
    def json(self) -> Path:
        return self.folder / f"{self.id}.json"

    @property
    def wav(self) -> Path:
        return self.folder / f"{self.id}.wav"

    @property
    def picture(self) -> Path:
        """Its spectrogram."""
        return self.folder / f"{self.id}.png"

    @property
    def poster(self) -> Path:
        """A frame of it, until it plays."""
        return self.folder / f"{self.id}.jpg"

    @property
    def files(self) -> tuple[Path, ...]:
        return self.mp4, self.json, self.wav, self.picture, self.poster


@dataclass(frozen=True)
class Entry:
    """What one request made.

    Attributes:
        title: Of the request.
        settings: What it was made with, in words.
        results: That are shown, each with those that are nearly like it.
        said: Sentences on what was used, kept, or odd.
        made: When (seconds since the epoch).
    """

    title: str
    settings: str
    results: tuple[Result, ...]
    said: tuple[str, ...]
    made: float = field(default_factory=time.time)

    @property
    def every(self) -> tuple[Result, ...]:
        """All results, shown or not, by their seeds' order."""
        found = [one for shown in self.results for one in (shown, *shown.alike)]
        return tuple(sorted(found, key=lambda one: one.id))


class Sitting:
    """What one visitor has made, and the files that are given.

    Args:
        folder: Of its results.
        bounds: Of the page.
    """

    def __init__(self, folder: Path, bounds: Bounds) -> None:
        self.folder, self._bounds = folder, bounds
        self._entries: list[Entry] = []
        self._count = 0
        self._lock = threading.Lock()
        self.used = time.time()

    @property
    def entries(self) -> list[Entry]:
        """Newest first."""
        with self._lock:
            return list(self._entries)

    def new_id(self) -> str:
        """Of a result."""
        with self._lock:
            self._count += 1
            return f"clip_{self._count:04d}"

    def add(self, entry: Entry) -> None:
        """Takes what was made; the oldest go where there are too many clips."""
        with self._lock:
            self._entries.insert(0, entry)
            while sum(len(e.every) for e in self._entries) > self._bounds.clips:
                if len(self._entries) == 1:
                    break
                _remove_files(self._entries.pop())

    def find(self, result_id: str) -> Result:
        """A result of this sitting.

        Raises:
            UserError: There is none of this name, or not any more.
        """
        for entry in self.entries:
            for result in entry.every:
                if result.id == result_id and result.mp4.is_file():
                    return result
        raise UserError("this clip is not here any more: clips are deleted after a while")

    def forget(self, before: float) -> None:
        """Deletes what was made before this time."""
        with self._lock:
            old = [entry for entry in self._entries if entry.made < before]
            self._entries = [entry for entry in self._entries if entry.made >= before]
        for entry in old:
            _remove_files(entry)


class Sittings:
    """All visitors' sittings, in one folder that goes with the page.

    Args:
        bounds: Of the page.
        above: Where the folder is made; None: the system's place for temporary files.
    """

    def __init__(self, bounds: Bounds, above: Path | None = None) -> None:
        self.bounds = bounds
        above = Path(tempfile.gettempdir()) if above is None else above
        _remove_abandoned(above)
        self.root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=above))
        self.uploads = self.root / "uploads"
        self.uploads.mkdir()
        self._lock = threading.Lock()
        self._sittings: OrderedDict[str, Sitting] = OrderedDict()
        self._owners: dict[str, set[str]] = {}
        self._given: dict[str, str] = {}
        self._over = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep_now_and_then, daemon=True)
        self._sweeper.start()

    def of(self, visitor: str) -> Sitting:
        """The sitting of a visitor; a new one where there is none."""
        with self._lock:
            sitting = self._sittings.pop(visitor, None)
            if sitting is None:
                # Its name is a secret, too: an address of a clip tells nothing of another visitor's.
                folder = self.root / secrets.token_urlsafe(24)
                folder.mkdir(mode=0o700)
                sitting = Sitting(folder, self.bounds)
            self._sittings[visitor] = sitting
            sitting.used = time.time()
            gone = []
            while len(self._sittings) > self.bounds.visitors:
                gone.append(self._sittings.popitem(last=False)[1])
        for old in gone:
            shutil.rmtree(old.folder, ignore_errors=True)
        return sitting

    def entries(self, visitor: str) -> list[Entry]:
        """What a visitor has made, newest first; nothing begins by asking."""
        with self._lock:
            sitting = self._sittings.get(visitor)
        return [] if sitting is None else sitting.entries

    def clip_file(self, visitor: str, folder: str, name: str) -> Path | None:
        """A file of a visitor's own sitting; None: it is none, or not there."""
        with self._lock:
            sitting = self._sittings.get(visitor)
        if sitting is None or sitting.folder.name != folder:
            return None
        known = {file.name: file for e in sitting.entries for r in e.every for file in r.files}
        path = known.get(name)
        return path if path is not None and path.is_file() else None

    def own(self, visitor: str, path: str, given: bool = True) -> None:
        """A file belongs to a visitor.

        Args:
            given: He has given it, so that it counts; else it was made for him.
        """
        place = str(Path(path).resolve())
        with self._lock:
            # The same file, given by two, lies in one place.
            self._owners.setdefault(place, set()).add(visitor)
            if given:
                self._given[place] = visitor

    def is_own(self, visitor: str, path: str) -> bool:
        """Whether a visitor has given this file."""
        with self._lock:
            return visitor in self._owners.get(str(Path(path).resolve()), ())

    def may_upload(self, visitor: str) -> bool:
        """Whether there is room for one more file of a visitor."""
        with self._lock:
            given = dict(self._given)
        own = sum(1 for owner in given.values() if owner == visitor)
        held = 0
        for path in given:
            with suppress(OSError):
                held += Path(path).stat().st_size
        room = (self.bounds.total_mb - self.bounds.upload_mb) * 1_000_000
        return own < self.bounds.uploads and held <= room

    def sweep(self, now: float | None = None) -> None:
        """Deletes what is older than it may be.

        Args:
            now: Seconds since the epoch; None: the clock's.
        """
        before = (time.time() if now is None else now) - self.bounds.kept_seconds
        with self._lock:
            sittings = list(self._sittings.items())
        for visitor, sitting in sittings:
            sitting.forget(before)
            if sitting.used < before and not sitting.entries:
                with self._lock:
                    self._sittings.pop(visitor, None)
                shutil.rmtree(sitting.folder, ignore_errors=True)

        # Uploads, whoever gave them; then the folders that they lay in.
        for file in sorted(self.uploads.rglob("*"), reverse=True):
            with suppress(OSError):
                if file.is_dir():
                    if file.stat().st_mtime < before:
                        file.rmdir()
                elif file.stat().st_mtime < before:
                    file.unlink()
        with self._lock:
            self._owners = {p: owners for p, owners in self._owners.items() if Path(p).is_file()}
            self._given = {p: owner for p, owner in self._given.items() if p in self._owners}

    def close(self) -> None:
        """Deletes everything."""
        self._over.set()
        shutil.rmtree(self.root, ignore_errors=True)

    def _sweep_now_and_then(self) -> None:
        while not self._over.wait(SWEEP_EVERY):
            self.sweep()


def _remove_files(entry: Entry) -> None:
    for result in entry.every:
        for file in result.files:
            file.unlink(missing_ok=True)


def _remove_abandoned(above: Path) -> None:
    """Deletes folders of pages whose process has died."""
    for folder in above.glob(f"{PREFIX}*-*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        with suppress(OSError, ValueError):
            if folder.stat().st_uid == os.getuid() and not folder.is_symlink():
                try:
                    os.kill(int(number), 0)
                except ProcessLookupError:
                    shutil.rmtree(folder, ignore_errors=True)

"""`--mirror URL`: a copy of the run folder on shared storage, so that a lost machine loses no run.

The copy is plain: the same files, at URL/NAME, brought up to date at every heartbeat; a file that
did not change is not sent again. `--resume URL/NAME` fetches it on another machine and goes on
there. URL is what fsspec knows: `s3://bucket/runs` (needs s3fs), `file:///mnt/nfs/runs`, ...

One driver at a time writes a copy. It leaves its name and the time in `driver.json`, where another
one looks before it starts. Object stores have no locks, so whoever paused for long may find that it
was taken for dead and another one went on: it sees that before it writes, and ends.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from hw_models.errors import InputError
from search.run_folder import RunFolder
from search.tracking.heartbeat import EVERY_S
from search.tracking.state import State

log = logging.getLogger(__name__)

DRIVER = "driver.json"
DEAD_S = 3 * EVERY_S  # without a sign, before another driver may go on
LOCAL = {".lock", ".part"}  # files that mean nothing elsewhere


@contextmanager
def mirrored(run: RunFolder, url: str | None) -> Iterator[list[Mirror]]:
    """Yield the mirror of a run, if it is to have one; at the end it is complete.

    Raises:
        InputError: See `Mirror`.
    """
    if url is None:
        yield []
        return
    mirror = Mirror(run, url)
    try:
        yield [mirror]
    finally:
        mirror.finish()


class Mirror:
    """A copy of a run folder, and the right to write it. A tracker: it copies at each report.

    Args:
        run: The folder.
        url: The folder's parent over there.
        clock: Seconds since the epoch, as the clocks of other machines count them.

    Raises:
        InputError: The place cannot be used, another driver uses it, or it holds a run that this
            folder is not the newest state of.
    """

    def __init__(self, run: RunFolder, url: str, clock: Callable[[], float] = time.time) -> None:
        self.url = f"{url.rstrip('/')}/{run.path.name}"
        self._run = run
        self._clock = clock
        self._owner = uuid.uuid4().hex
        self._sent: dict[str, tuple[int, int]] = {}  # modification time and size
        self._lost = False
        self._files, self._root = _open(self.url)
        try:
            self._check_newest()
            self._check_alone()
            self._sign()
        except OSError as error:
            raise InputError(
                f"--mirror {url}: cannot be written ({error}).",
                "Check the address and the credentials.",
            ) from error

    def report(self, _: State) -> None:
        """Bring the copy up to date."""
        self.push()

    def close(self) -> None:
        """Nothing: `finish` comes when the run has written its last line."""

    def push(self) -> None:
        """Send the files that changed.

        Raises:
            OSError: The place cannot be written now.
        """
        if self._lost:
            return
        driver = self._driver()
        if driver is None or driver["owner"] != self._owner:
            self._lost = True
            who = "nobody" if driver is None else f"{driver['host']}, process {driver['pid']}"
            log.error("%s was taken over by %s: this search ends", self.url, who)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self._sign()
        for path in sorted(self._run.path.rglob("*")):
            name = path.relative_to(self._run.path).as_posix()
            if not path.is_file() or path.suffix in LOCAL:
                continue
            status = path.stat()
            version = status.st_mtime_ns, status.st_size
            if self._sent.get(name) != version:
                self._files.put_file(str(path), self._at(name))
                self._sent[name] = version

    def finish(self) -> None:
        """Complete the copy and let go of it."""
        try:
            self.push()
            if not self._lost:
                self._files.rm_file(self._at(DRIVER))
        except Exception as error:
            log.error("%s: is not complete (%s); %s is", self.url, error, self._run.path)

    def _check_newest(self) -> None:
        """Refuse to write over evaluations that this folder does not have."""
        try:
            there = self._files.cat_file(self._at(self._run.journal.name))
        except FileNotFoundError:
            return
        here = self._run.journal.read_bytes() if self._run.journal.exists() else b""
        if not here.startswith(there[: there.rfind(b"\n") + 1]):
            raise InputError(
                f"--mirror: {self.url} holds a run with results that {self._run.path} lacks.",
                f"Go on with it by --resume {self.url}, or give another --name.",
            )

    def _check_alone(self) -> None:
        driver = self._driver()
        if driver is not None and (silent_s := self._clock() - driver["time"]) < DEAD_S:
            raise InputError(
                f"--mirror: {self.url} is in use by a search on {driver['host']}, process "
                f"{driver['pid']}, that gave a sign {max(0.0, silent_s):.0f} s ago.",
                f"Wait for it to end. If it is dead, wait until that is {DEAD_S:.0f} s ago.",
            )

    def _sign(self) -> None:
        sign = {
            "owner": self._owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": self._clock(),
        }
        self._files.pipe_file(self._at(DRIVER), json.dumps(sign).encode())

    def _driver(self) -> dict[str, Any] | None:
        try:
            return json.loads(self._files.cat_file(self._at(DRIVER)))
        except FileNotFoundError:
            return None

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


def is_url(text: str) -> bool:
    """Tell a URL from a path."""
    return "://" in text


def fetch(url: str, project: Path) -> RunFolder:
    """Copy a mirrored run to this machine, to go on with it.

    Raises:
        InputError: There is no run, or no way to read it; or this machine has a run of that name.
    """
    files, root = _open(url)
    run = RunFolder(project / root.rsplit("/", 1)[-1])
    if run.path.exists():
        raise InputError(
            f"--resume {url}: {run.path} is there already.",
            f"Go on with that one by --resume {run.path}, or give --project for another place.",
        )
    try:
        names = [path.removeprefix(root).lstrip("/") for path in files.find(root)]
    except OSError as error:
        raise InputError(f"--resume {url}: cannot be read ({error}).") from error
    if run.study.name not in names:
        raise InputError(
            f"--resume {url}: expected a mirrored run, with a study.yaml in it.",
            "It lies in a folder of its name below the address given as --mirror.",
        )
    for name in names:
        if name != DRIVER:
            (run.path / name).parent.mkdir(parents=True, exist_ok=True)
            files.get_file(f"{root}/{name}", str(run.path / name))
    log.info("fetched %s: %d files", url, len(names))
    return run


def _open(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path there.

    Raises:
        InputError: No such kind of URL, or the package for it is missing.
    """
    # Object stores have no folders that would have to be made first.
    options = {"auto_mkdir": True} if url.startswith("file://") else {"use_listings_cache": False}
    try:
        files, root = fsspec.core.url_to_fs(url.rstrip("/"), **options)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{url}: {error}.",
            "Give what fsspec knows, such as s3://bucket/runs (pip install s3fs) or "
            "file:///mnt/shared/runs.",
        ) from None
    return files, str(root)

"""The layer database: what is measured of a dense network, once a node, for all who compress it.

A version of a layer, whatever its channels and bits, is made from statistics of the dense layer:
second moments of what it reads (`evaluators.refit`), samples of what it writes
(`evaluators.reconstruct`), the clips of its activations. The versions themselves are too many to be
kept, for a layer behind a concatenation has one for each combination of its sources' levels. The
statistics take a pass over the calibration images and depend on weights, images and input size
only. So they are kept, in files named by what they depend on, and mapped into memory: the actors of
a node share one copy, and the next search of the same model finds it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar, cast

import torch
from filelock import FileLock, Timeout

from evaluators.batchnorm import Moments
from evaluators.distortion import Reference
from evaluators.refit import Inputs
from spaces.quantization.grid import ActivationScales

log = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT = "3"  # to be counted up when what is measured, or how, changes
LARGEST = 16_000_000_000  # bytes of all files; what was not used for longest goes first
SPARE = 2_000_000_000  # bytes that stay free on the disk
PATIENCE_S = 900.0  # for another process that measures the same
STORED = (Moments, Inputs, ActivationScales, Reference)
"""What a file may hold beside tensors and plain containers: reading one executes nothing."""


class Database:
    """The files of a folder.

    Args:
        folder: Where; `default_folder()` if not given. It is made when something is kept; one that
            cannot be written is done without.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    def recall(self, key: Iterable[str | int], measure: Callable[[], T]) -> T:
        """Return what was measured under a key; if there is nothing, measure it and keep it.

        Another process that measures the same is waited for.

        Args:
            key: All that decides the result.
            measure: Returns tensors, plain containers and what is `STORED`.

        Returns:
            What was measured. Its tensors lie in memory that is shared by all who use the file.
        """
        text = json.dumps([FORMAT, torch.__version__, *key])
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.pt"
        with _alone(path):
            if (known := _read(path)) is not None:
                return cast("T", known)
            measured = measure()
            try:
                self._keep(path, measured)
                known = _read(path)
            except OSError as error:
                log.info("what was measured of the dense model is not kept: %s", error)
            return measured if known is None else cast("T", known)

    def _keep(self, path: Path, measured: object) -> None:
        """Write a file as a whole, then make room.

        Raises:
            OSError: It cannot be written, or the disk would be full.
        """
        part = path.with_suffix(".part")
        try:
            torch.save(measured, part)
            if shutil.disk_usage(self.folder).free < SPARE:
                raise OSError(f"less than {SPARE / 1e9:g} GB would be free in {self.folder}")
            part.replace(path)
        except RuntimeError as error:  # so torch says that the disk is full
            raise OSError(str(error)) from error
        finally:
            part.unlink(missing_ok=True)
        oldest = sorted(self.folder.glob("*.pt"), key=lambda file: file.stat().st_mtime)
        excess = sum(file.stat().st_size for file in oldest) - LARGEST
        while excess > 0 and len(oldest) > 1:
            file = oldest.pop(0)
            excess -= file.stat().st_size
            file.unlink(missing_ok=True)


def default_folder() -> Path:
    """Return where files are kept: `$PARETRIM_CACHE`, or a folder in the user's cache."""
    if given := os.environ.get("PARETRIM_CACHE"):
        return Path(given)
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a container's user need not have a home
        home = tempfile.gettempdir()
    return Path(home) / "paretrim"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from measuring the same; where that cannot be done, go on."""
    with ExitStack() as stack:
        # NotImplementedError: a file system without locks.
        with suppress(OSError, Timeout, NotImplementedError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock"), timeout=PATIENCE_S))
        yield


def _read(path: Path) -> object:
    """Map a file into memory; None where there is none, or it is damaged."""
    try:
        with torch.serialization.safe_globals([*STORED]):
            known = torch.load(path, mmap=True, weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        log.warning("%s is measured again: the file cannot be read (%s)", path, error)
        return None
    with suppress(OSError):
        os.utime(path)
    return cast("object", known)

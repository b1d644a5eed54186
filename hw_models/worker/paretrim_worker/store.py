"""Uploaded models: files named by their SHA-256 in a private folder, least recently used first out.

Only the server names files. A file gets its final name after its digest was checked, so a file that
has the name has the bytes.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Iterator, List, Optional

from paretrim_worker.errors import BadRequest, NotStored, WrongDigest

DIGEST_BYTES = 32
SUFFIX = ".onnx"


class Upload:
    """One model on its way in; `add` takes its bytes, `check` says whether all is there."""

    def __init__(self, path: Path, file: int, sha256: bytes, size_bytes: int) -> None:
        self.path = path
        self._file = file
        self._sha256 = sha256
        self._size_bytes = size_bytes
        self._received = 0
        self._hash = hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            BadRequest: If they are more than was announced.
        """
        self._received += len(chunk)
        if self._received > self._size_bytes:
            raise BadRequest(
                "more bytes than announced: expected {}, got at least {}".format(
                    self._size_bytes, self._received
                )
            )
        self._hash.update(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._file, view) :]

    def check(self) -> None:
        """Raise WrongDigest unless exactly the announced bytes have arrived."""
        if self._received != self._size_bytes:
            raise WrongDigest(
                "the upload ended early: expected {} bytes, got {}".format(
                    self._size_bytes, self._received
                )
            )
        if self._hash.digest() != self._sha256:
            raise WrongDigest(
                "wrong digest: expected SHA-256 {}, got {}".format(
                    self._sha256.hex(), self._hash.hexdigest()
                )
            )


class ModelStore:
    """A private folder of models.

    Args:
        model_bytes: Largest model let in.
        total_bytes: When the folder holds more, the models not used for longest are deleted.
        parent: Where to make the folder; None is the system's place for temporary files.
    """

    def __init__(self, model_bytes: int, total_bytes: int, parent: Optional[Path] = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="paretrim-worker-", dir=parent))  # mode 0700
        self.model_bytes = model_bytes
        self._total_bytes = total_bytes
        self._lock = threading.Lock()

    def path(self, sha256: bytes) -> Path:
        """Where the model of a digest lies.

        Raises:
            BadRequest: If the digest is not 32 bytes.
            NotStored: If there is none.
        """
        path = self._name(sha256)
        try:
            os.utime(path)  # used now: last to be deleted
        except FileNotFoundError:
            raise NotStored("no model {} here: upload it first".format(sha256.hex())) from None
        return path

    def holds(self, sha256: bytes) -> bool:
        """Whether the model of a digest is stored."""
        return self._name(sha256).exists()

    @contextlib.contextmanager
    def receive(self, sha256: bytes, size_bytes: int) -> Iterator[Upload]:
        """Take a model in; its partial file is gone afterwards unless it was `keep`-ed.

        Raises:
            BadRequest: If the digest is malformed or the size beyond the cap.
        """
        self._name(sha256)
        if not 0 < size_bytes <= self.model_bytes:
            raise BadRequest(
                "model size: expected 1 to {} bytes, got {}".format(self.model_bytes, size_bytes)
            )
        file, name = tempfile.mkstemp(prefix="upload-", suffix=".part", dir=self.folder)
        try:
            yield Upload(Path(name), file, sha256, size_bytes)
        finally:
            os.close(file)
            with contextlib.suppress(FileNotFoundError):
                Path(name).unlink()

    def keep(self, upload: Upload, sha256: bytes) -> None:
        """Give a checked upload its name, and make room for it."""
        upload.check()
        with self._lock:
            upload.path.replace(self._name(sha256))
            self._make_room(self._name(sha256))

    def close(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _name(self, sha256: bytes) -> Path:
        if len(sha256) != DIGEST_BYTES:
            raise BadRequest(
                "model digest: expected the {} bytes of a SHA-256, got {} bytes".format(
                    DIGEST_BYTES, len(sha256)
                )
            )
        return self.folder / (sha256.hex() + SUFFIX)

    def _make_room(self, newest: Path) -> None:
        models: List[Path] = sorted(
            self.folder.glob("*" + SUFFIX), key=lambda path: path.stat().st_mtime_ns
        )
        total = sum(path.stat().st_size for path in models)
        for path in models:
            if total <= self._total_bytes:
                break
            if path != newest:
                total -= path.stat().st_size
                path.unlink()

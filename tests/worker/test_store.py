import hashlib
import os
import stat

import pytest
from paretrim_worker.errors import BadRequest, NotStored, WrongDigest
from paretrim_worker.store import ModelStore


@pytest.fixture
def store(tmp_path):
    store = ModelStore(model_bytes=1000, total_bytes=2500, parent=tmp_path)
    yield store
    store.close()


def put(store, data):
    digest = hashlib.sha256(data).digest()
    with store.receive(digest, len(data)) as upload:
        upload.add(data)
        store.keep(upload, digest)
    return digest


def files(store):
    return sorted(path.name for path in store.folder.iterdir())


def test_names_a_file_by_its_digest_and_keeps_others_out(store):
    digest = put(store, b"model")
    assert store.path(digest).name == digest.hex() + ".onnx"
    assert store.path(digest).read_bytes() == b"model"
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path(digest).stat().st_mode) == 0o600


def test_a_wrong_digest_leaves_no_file(store):
    wrong = hashlib.sha256(b"other").digest()
    with pytest.raises(WrongDigest, match="expected SHA-256"), store.receive(wrong, 5) as upload:
        upload.add(b"model")
        store.keep(upload, wrong)
    assert files(store) == []


def test_a_truncated_upload_leaves_no_file(store):
    digest = hashlib.sha256(b"model").digest()
    with store.receive(digest, 5) as upload:
        upload.add(b"mod")
        with pytest.raises(WrongDigest, match="expected 5 bytes, got 3"):
            store.keep(upload, digest)
    assert files(store) == []


def test_more_bytes_than_announced_are_refused_at_once(store):
    digest = hashlib.sha256(b"model").digest()
    with pytest.raises(BadRequest, match="more bytes"), store.receive(digest, 5) as upload:
        upload.add(b"model and more")
    assert files(store) == []


@pytest.mark.parametrize("size", [0, 1001, 2**63])
def test_sizes_beyond_the_cap_are_refused(store, size):
    with pytest.raises(BadRequest, match="model size"), store.receive(b"x" * 32, size):
        pass


@pytest.mark.parametrize("name", [b"", b"../../etc/passwd", b"/etc/passwd", b"x" * 31, b"x" * 33])
def test_whatever_is_no_digest_names_no_file(store, name):
    with pytest.raises(BadRequest, match="32 bytes"):
        store.path(name)
    with pytest.raises(BadRequest, match="32 bytes"), store.receive(name, 5):
        pass


def test_a_digest_of_path_characters_stays_inside(store):
    with pytest.raises(NotStored):
        store.path(b"../" * 10 + b"..")


def test_the_least_recently_used_goes_first(store):
    first, second = put(store, b"1" * 900), put(store, b"2" * 900)
    os.utime(store.path(first), ns=(1, 1))
    os.utime(store.path(second), ns=(2, 2))
    store.path(first)  # used
    third = put(store, b"3" * 900)
    assert not store.holds(second)
    assert store.holds(first)
    assert store.holds(third)


def test_close_deletes_the_folder(tmp_path):
    store = ModelStore(10, 10, parent=tmp_path)
    put(store, b"model")
    store.close()
    assert list(tmp_path.iterdir()) == []

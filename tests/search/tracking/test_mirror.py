"""The mirror on a folder, as NFS would be, and on a real S3 server (moto) on loopback."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from hw_models.errors import InputError
from search.ledger import Ledger
from search.run_folder import RunFolder
from search.tracking.mirror import DEAD_S, Mirror, fetch, mirrored
from tests.search.test_ledger import outcome


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server; return the address of an empty bucket."""
    import boto3

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="paretrim")
    yield "s3://paretrim"
    patch.undo()
    server.stop()


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path / 'mnt' / 'runs'}"
    return f"{request.getfixturevalue('s3')}/{request.node.name.translate({91: '-', 93: None})}"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "here" / "exp")
    run.path.mkdir(parents=True)
    run.study.write_text("settings: {}\n")
    (run.model("p01") / "model.onnx").write_bytes(b"\0" * 1000)
    record(run, 1)
    return run


def record(run: RunFolder, *channels: int) -> None:
    with Ledger(run.journal, "study") as ledger:
        for number in channels:
            ledger.record(outcome(8 * number))


def contents(run: RunFolder) -> dict[str, bytes]:
    files = (path for path in run.path.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in files}


def test_a_run_comes_back_elsewhere_as_it_was(run: RunFolder, url: str, tmp_path: Path) -> None:
    with mirrored(run, url) as (mirror,):
        mirror.push()
        record(run, 2, 3)  # the end of the context brings the rest
    back = fetch(f"{url}/exp", tmp_path / "there")
    assert back.path == tmp_path / "there" / "exp"
    assert contents(back) == contents(run)
    assert {"study.yaml", "journal.jsonl", "models/p01/model.onnx"} == set(contents(back))


def test_only_what_changed_is_sent(run: RunFolder, url: str, monkeypatch: Any) -> None:
    mirror = Mirror(run, url)
    mirror.push()
    sent: list[str] = []
    put_file = mirror._files.put_file
    monkeypatch.setattr(
        mirror._files,
        "put_file",
        lambda here, there: (sent.append(Path(here).name), put_file(here, there)),
        raising=False,
    )
    record(run, 2)
    mirror.push()
    assert sent == ["journal.jsonl"]


def test_a_second_driver_is_kept_out(run: RunFolder, url: str) -> None:
    clock = Clock()
    Mirror(run, url, clock).push()
    clock.now += DEAD_S - 1
    with pytest.raises(InputError, match=r"in use by a search on .* a sign 179 s ago"):
        Mirror(run, url, clock)


def test_after_an_end_in_good_order_the_next_need_not_wait(run: RunFolder, url: str) -> None:
    for _ in range(2):
        with mirrored(run, url):
            pass


def test_one_that_was_taken_for_dead_ends_and_writes_nothing_more(
    run: RunFolder, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, signals = Clock(), []
    paused = Mirror(run, url, clock)
    paused.push()
    clock.now += DEAD_S
    other = fetch(f"{url}/exp", tmp_path / "there")
    Mirror(other, url, clock).push()
    record(run, 2)
    before = signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    try:
        for _ in range(2):
            paused.push()
        paused.finish()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signals == [signal.SIGTERM]
    assert "was taken over by" in caplog.text
    assert contents(fetch(f"{url}/exp", tmp_path / "third")) == contents(other)


def test_an_older_state_of_the_run_is_refused(run: RunFolder, url: str, tmp_path: Path) -> None:
    with mirrored(run, url):
        pass
    newer = fetch(f"{url}/exp", tmp_path / "there")
    record(newer, 2)
    with mirrored(newer, url):
        pass
    with pytest.raises(InputError, match=f"--resume {url}/exp"):
        Mirror(run, url)
    assert contents(fetch(f"{url}/exp", tmp_path / "third")) == contents(newer)


def test_an_outage_is_told_and_made_good(
    run: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"file://{tmp_path / 'mnt'}"
    with mirrored(run, url) as (mirror,):
        record(run, 2)
        journal = tmp_path / "mnt" / "exp" / "journal.jsonl"
        journal.mkdir()  # no file can be put there
        with pytest.raises(OSError, match="journal"):
            mirror.push()
        journal.rmdir()
    assert contents(fetch(f"{url}/exp", tmp_path / "there")) == contents(run)
    with mirrored(run, url):
        record(run, 3)
        (tmp_path / "mnt" / "exp" / "journal.jsonl").unlink()
        (tmp_path / "mnt" / "exp" / "journal.jsonl").mkdir()
    assert "is not complete" in caplog.text


def test_what_cannot_be_fetched(run: RunFolder, url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a mirrored run"):
        fetch(f"{url}/nothing", tmp_path / "there")
    with mirrored(run, url):
        pass
    with pytest.raises(InputError, match="is there already"):
        fetch(f"{url}/exp", run.path.parent)


@pytest.mark.parametrize("url", ["gopher://hole/runs", "s3://no-such-bucket-anywhere/runs"])
def test_what_cannot_be_written(run: RunFolder, s3: str, url: str) -> None:
    with pytest.raises(InputError, match=url.split("/runs", maxsplit=1)[0]):
        Mirror(run, url)

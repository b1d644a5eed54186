"""The headline on two real hosts: `ray up`, `ray submit`, `ray job submit`, over ssh.

The hosts are namespaces of this machine (`tests.search.cluster.lan`); everything else is as it is for a
user, who replaces the four values at the top of cluster.yaml. A tiny data set keeps it short.
"""  # noqa: E501

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search.methods.plain import BATCH
from tests.search.cluster.lan import LAPTOP, NET, ROOT, Lan, why_not

REASON = why_not()
PATIENCE_S = 900  # for what takes a minute or two where nothing else runs
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=f"no hosts: {REASON}"),
    pytest.mark.timeout(3 * PATIENCE_S),
]
JOBS = "http://127.0.0.1:8265"
TINY = ("--latency", "30ms", "--imgsz", "160", "--method", "random")

Record = dict[str, object]


class Cluster:
    """Two hosts under `ray up`, seen from the laptop."""

    def __init__(self, lan: Lan, data: Path) -> None:
        self.lan = lan
        self.yaml = lan.folder / "cluster.yaml"
        self.yaml.write_text(
            (ROOT / "cluster.yaml")
            .read_text()
            .replace("192.0.2.1", f"{NET}.1")
            .replace("192.0.2.2", f"{NET}.2")
            .replace("ssh_user: ubuntu", "ssh_user: root")
            .replace("~/.ssh/id_ed25519", str(lan.key))
        )
        shutil.copytree(data.parent, lan.home(1) / "tiny")

    def ray(self, *command: object) -> str:
        """Run a command of Ray on the laptop; return what it printed."""
        process = self.lan.laptop("ray", *command)
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
        return output

    def search(self, *options: object) -> subprocess.Popen[str]:
        """Start a search with `ray submit`."""
        return self.lan.laptop("ray", "submit", self.yaml, "search.py", *options)

    def run(self, name: str) -> Path:
        return self.lan.home(1) / "runs" / "search" / name

    def log(self, name: str) -> str:
        path = self.run(name) / "log.txt"
        return path.read_text() if path.exists() else ""

    def journal(self, name: str) -> list[Record]:
        """Return the records of a run; a line that is being written does not count."""
        path = self.run(name) / "journal.jsonl"
        lines = path.read_text().split("\n")[1:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def hosts(self, name: str, since: int = 0) -> set[str]:
        """Return where a run was evaluated, from some record on."""
        return {str(record["where"]).split("/")[0] for record in self.journal(name)[since:]}


def wait_for(what: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.2)


def assert_recorded_once(records: list[Record]) -> None:
    keys = Counter((record["digest"], record["rung"]) for record in records)
    assert keys.most_common(1)[0][1] == 1


def scored(records: list[Record]) -> set[object]:
    """Return the candidates scored on the way."""
    return {record["digest"] for record in records if record["rung"] == "subset"}


@pytest.fixture(scope="module")
def cluster(tiny_data: Path) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="lan"))
    try:
        with Lan(folder) as lan:
            cluster = Cluster(lan, tiny_data)
            cluster.ray("up", "-y", cluster.yaml)
            yield cluster
    finally:
        shutil.rmtree(folder)


def test_ray_submit_evaluates_on_both_hosts_and_the_run_comes_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    output = cluster.ray(
        "submit", cluster.yaml, "search.py", "--latency", "30ms", "--evals", "60",
        "--data", "tiny/tiny.yaml", "--imgsz", "160",
    )  # fmt: skip
    assert "all evaluations are spent after 60 candidates" in " ".join(output.split())
    assert cluster.hosts("exp") == {f"{NET}.1", f"{NET}.2"}
    assert_recorded_once(cluster.journal("exp"))
    cluster.ray("rsync-down", cluster.yaml, "~/runs/", tmp_path)
    for name in ("front.csv", "picks.json", "report.html", "journal.jsonl"):
        assert (tmp_path / "search" / "exp" / name).stat().st_size > 0


def test_every_node_has_the_token_for_itself_alone(cluster: Cluster) -> None:
    tokens = [cluster.lan.home(host) / ".ray" / "auth_token" for host in (1, 2)]
    wait_for("the token on host 2", tokens[1].exists)
    assert tokens[0].read_text() == tokens[1].read_text()
    assert [token.stat().st_mode & 0o777 for token in tokens] == [0o600, 0o600]
    assert not (cluster.lan.home(LAPTOP) / ".ray" / "auth_token").exists()


def test_without_the_token_ray_refuses(cluster: Cluster) -> None:
    jobs = ("curl", "-sS", "--max-time", "10", "-w", "%{http_code}")
    answer = cluster.lan.run(1, *jobs, "http://127.0.0.1:8265/api/jobs/")
    assert answer[-3:] in {"401", "403"}
    outside = cluster.lan.laptop(*jobs, f"http://{NET}.1:8265/api/jobs/")
    assert "Failed to connect" in outside.communicate(timeout=60)[0]
    for token in ("", "0" * 64):
        intruder = cluster.lan.laptop(
            "env", "RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={token}",
            "ray", "status", "--address", f"{NET}.1:6379",
        )  # fmt: skip
        output, _ = intruder.communicate(timeout=120)
        assert intruder.returncode != 0, output
        assert "token" in output.lower()


def test_a_node_is_cut_off_and_comes_back(cluster: Cluster) -> None:
    head, other = f"{NET}.1", f"{NET}.2"
    process = cluster.search(*TINY, "--data", "tiny/tiny.yaml", "--evals", 9999, "--name", "cut")
    try:
        wait_for("both hosts to work", lambda: cluster.hosts("cut") == {head, other})
        cluster.lan.cut(2)
        asked = len(scored(cluster.journal("cut")))
        wait_for("host 2 to be given up", lambda: f"node {other} left" in cluster.log("cut"))
        alone = len(cluster.journal("cut"))
        wait_for("host 1 to go on", lambda: len(cluster.journal("cut")) >= alone + 5)
        assert cluster.hosts("cut", since=alone) == {head}
        cluster.lan.join(2)
        wait_for("host 2 to work again", lambda: other in cluster.hosts("cut", since=alone))
        enough = asked + BATCH + 1  # whatever was begun at the cut is complete
        wait_for("a whole batch", lambda: len(scored(cluster.journal("cut"))) >= enough)
        cluster.lan.run(1, "pkill", "-TERM", "-f", "python.*search[.]py")
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        cluster.lan.stop(process)
    assert "interrupted" in output
    before = cluster.journal("cut")
    assert_recorded_once(before)

    # What was in flight when the host was cut off was evaluated elsewhere: as many candidates as
    # were known then are known now, without a hole, and a shorter run needs only to verify.
    cluster.ray(
        "submit", cluster.yaml, "search.py", "--resume", "runs/search/cut", "--evals", asked,
        "--actors", 1,
    )  # fmt: skip
    after = cluster.journal("cut")
    assert after[: len(before)] == before
    assert scored(after) == scored(before)
    assert_recorded_once(after)
    assert (cluster.run("cut") / "report.html").exists()


@pytest.fixture
def tunnel(cluster: Cluster) -> Iterator[None]:
    """Bring the head's job interface to the laptop's loopback, as docs/cluster.md says."""
    process = cluster.lan.laptop("ray", "dashboard", cluster.yaml)
    try:
        wait_for("the tunnel", lambda: job_interface(cluster) in {"200", "401", "403"})
        yield
    finally:
        cluster.lan.stop(process)


def job_interface(cluster: Cluster) -> str:
    """Return the HTTP status of the job interface, for one without a token."""
    quiet = ("curl", "-s", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}")
    return cluster.lan.laptop(*quiet, f"{JOBS}/api/jobs/").communicate(timeout=60)[0]


@pytest.mark.usefixtures("tunnel")
def test_a_job_goes_on_without_its_submitter(cluster: Cluster) -> None:
    token = cluster.lan.folder / "token"
    cluster.ray("rsync-down", cluster.yaml, "~/.ray/auth_token", token)
    submit = (
        "ray", "job", "submit", "--address", JOBS, "--working-dir", ".", "--no-wait", "--",
        "python", "search.py", *TINY, "--evals", "10", "--name", "job",
        "--data", cluster.lan.folder / "here/home/tiny/tiny.yaml",
    )  # fmt: skip
    known = {"RAY_AUTH_TOKEN_PATH": token, "RAY_AUTH_TOKEN": "0" * 64}
    for name, expected in (("RAY_AUTH_TOKEN", False), ("RAY_AUTH_TOKEN_PATH", True)):
        process = cluster.lan.laptop(
            "env", "RAY_AUTH_MODE=token", f"{name}={known[name]}", *submit
        )  # fmt: skip
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode == 0) == expected, output
    wait_for("the job's end", (cluster.run("job") / "report.html").exists)
    assert_recorded_once(cluster.journal("job"))
    assert not cluster.run("job2").exists()  # the stranger's

"""Both pools under one conformance class; the Ray pool with actors that really die and hang.

The evaluator here is a stand-in that does what the candidate says (Ray, its processes and their
deaths are real): what is under test is the pool.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from evaluators.score import Failed, Score
from hw_models.errors import DeviceError
from search.actors import InProcessPool, Pool, RayPool
from search.ledger import Task
from spaces.candidate import Candidate


@dataclass
class Obedient:
    """Does what the candidate's first group is called; remembers across processes in `folder`."""

    folder: Path

    def evaluate(self, candidate: Candidate, rung: str) -> Score | Failed:
        (order, number), *_ = candidate.kept
        first_time = self._first_time(f"{order}-{number}")
        if order == "die" or (order == "die-once" and first_time):
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "hang" or (order == "hang-once" and first_time):
            time.sleep(3600)
        if order == "bug":
            raise ZeroDivisionError("a bug")
        if order == "full-once" and first_time:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if order == "fail":
            return Failed("non-finite", "outputs are NaN")
        return Score(number / 1000, 0.5, 0.0, 1.0, images=1, rung=rung)

    def _first_time(self, name: str) -> bool:
        marker = self.folder / name
        seen = marker.exists()
        marker.touch()
        return not seen


def task(order: str, number: int = 1) -> Task:
    return Task(Candidate(imgsz=320, kept=((order, number),), bits=()), "subset")


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def build(tmp_path: Path) -> Any:
    return partial(Obedient, tmp_path)


@pytest.fixture
def ray_pool(build: Any) -> Iterator[Callable[..., RayPool]]:
    pools: list[RayPool] = []

    def make(deadline_s: float = 60.0, size: int = 2) -> RayPool:
        pools.append(RayPool(build, size, lambda _: deadline_s))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture(scope="class", params=["in-process", "ray"])
def pool(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pool]:
    build: Any = partial(Obedient, tmp_path_factory.mktemp("seen"))
    in_process = request.param == "in-process"
    either: Pool = InProcessPool(build) if in_process else RayPool(build, 2, lambda _: 60.0)
    yield either
    either.close()


class TestBothPools:
    def test_every_task_has_one_outcome(self, pool: Pool) -> None:
        tasks = [task("ok", number) for number in range(10)]
        outcomes = list(pool.run(tasks))
        assert {o.task.key for o in outcomes} == {t.key for t in tasks}
        assert len(outcomes) == 10
        for o in outcomes:
            assert isinstance(o.result, Score)
            assert o.result.map50_95 == dict(o.task.candidate.kept)["ok"] / 1000
            assert o.where
            assert o.seconds >= 0

    def test_failures_are_results(self, pool: Pool) -> None:
        (o,) = pool.run([task("fail")])
        assert o.result == Failed("non-finite", "outputs are NaN")

    def test_nothing_to_do(self, pool: Pool) -> None:
        assert list(pool.run([])) == []

    def test_tasks_are_drawn_late_and_may_have_to_wait_for_others(self, pool: Pool) -> None:
        ended = list[Task]()

        def tasks() -> Iterator[Task | None]:
            yield task("ok", 1)
            yield task("ok", 2)
            while len(ended) < 2:
                yield None
            yield task("ok", 3)

        for outcome in pool.run(tasks()):
            ended.append(outcome.task)
        assert sorted(ended[:2], key=lambda t: t.key) == sorted(
            [task("ok", 1), task("ok", 2)], key=lambda t: t.key
        )
        assert ended[2:] == [task("ok", 3)]

    def test_it_can_be_used_again(self, pool: Pool) -> None:
        assert len(list(pool.run([task("ok", 1)]))) == len(list(pool.run([task("ok", 2)]))) == 1

    def test_bugs_are_not_swallowed(self, pool: Pool) -> None:
        with pytest.raises(ZeroDivisionError, match="a bug"):
            list(pool.run([task("bug")]))


def test_an_actor_is_as_heavy_as_its_evaluator_and_no_heavier() -> None:
    code = "import sys, search.evaluating; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603


def leaving_a_trace(folder: Path) -> Obedient:
    (folder / "built").touch()
    return Obedient(folder)


def test_actors_start_with_the_first_task(tmp_path: Path) -> None:
    while ray.available_resources().get("CPU") != 2:  # those of other tests are about to end
        time.sleep(0.1)
    pool = RayPool(partial(leaving_a_trace, tmp_path), 2, lambda _: 60.0)
    assert pool.size == 2  # to come
    assert list(pool.run([])) == []
    time.sleep(1)
    assert ray.available_resources()["CPU"] == 2
    assert len(list(pool.run([task("work")]))) == 1
    assert (tmp_path / "built").exists()
    pool.close()


@pytest.mark.parametrize("order", ["die-once", "full-once"])
def test_an_actor_that_dies_or_lacks_gpu_memory_is_replaced_and_its_task_tried_again(
    ray_pool: Any, order: str
) -> None:
    tasks = [task(order), *(task("ok", number) for number in range(6))]
    outcomes = list(ray_pool().run(tasks))
    assert len(outcomes) == 7
    assert all(isinstance(o.result, Score) for o in outcomes)


def test_a_task_that_kills_every_actor_is_recorded_as_failed(ray_pool: Any) -> None:
    tasks = [task("die"), *(task("ok", number) for number in range(6))]
    results = {o.task.key: o.result for o in ray_pool().run(tasks)}
    lost = results[tasks[0].key]
    assert isinstance(lost, Failed)
    assert (lost.kind, lost.retryable) == ("crash", True)
    assert all(isinstance(results[t.key], Score) for t in tasks[1:])


def test_a_hanging_actor_is_killed_at_the_deadline(ray_pool: Any) -> None:
    pool = ray_pool(deadline_s=4.0)
    results = {o.task.key: o.result for o in pool.run([task("hang-once"), task("ok", 3)])}
    assert all(isinstance(result, Score) for result in results.values())


def test_a_task_that_always_hangs_is_recorded_as_failed(ray_pool: Any) -> None:
    (o,) = ray_pool(deadline_s=4.0, size=1).run([task("hang")])
    assert isinstance(o.result, Failed)
    assert o.result.kind == "timeout"


def test_it_gives_up_when_no_actor_ever_lives(ray_pool: Any) -> None:
    with pytest.raises(DeviceError, match="die before they answer"):
        list(ray_pool(size=1).run([task("die", number) for number in range(10)]))


def test_closing_kills_the_actors(build: Any) -> None:
    pool = RayPool(build, 2, lambda _: 60.0)
    outcomes = list(pool.run([task("ok", 1), task("ok", 2), task("ok", 3)]))
    pids = {int(o.where.split("/")[1]) for o in outcomes}
    pool.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_cluster_that_was_killed_is_not_waited_for() -> None:
    """Ray keeps its address in a file, and would try to connect to it for ever."""
    script = "from search.actors import start_ray; start_ray(); import ray; print(len(ray.nodes()))"
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        (Path(folder) / "ray").mkdir()
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        (Path(folder) / "ray" / "ray_current_cluster").write_text(address)
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=200,
            env={**os.environ, "RAY_TMPDIR": folder},
        )
    assert done.stdout.strip() == "1", done.stderr
    assert f"the Ray cluster at {address} does not answer" in done.stderr

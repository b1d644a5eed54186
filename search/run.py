"""A whole run: prepare, explore, verify, deliver, write. The command line calls this.

settings -> Problem -> Session (journal, pool) -> points -> front -> files
"""

from __future__ import annotations

import logging
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from evaluators.evaluator import SUBSET_IMAGES, Evaluator
from hw_models.errors import InputError
from search.actors import InProcessPool, Pool, RayPool
from search.deliver import check_delivered, deliver, native_format
from search.explorer import Session
from search.finished import with_recovered
from search.front import Point
from search.ledger import Ledger, Task
from search.measure import Bench, devices, times_of
from search.outputs import Result, advice, best_of, describe_pick, front_table, write_outputs
from search.problem import Problem, accuracy, prepare
from search.progress import logging_to, start_logging
from search.promise import check_reached, keep_promise, on_device
from search.report import write_report
from search.run_folder import RunFolder, new_run
from search.settings import Settings, parse_duration_s
from search.status import write_status
from search.study import explore, name_points, score_dense, verify
from search.tracking.chosen import check_installed, trackers
from search.tracking.heartbeat import Heartbeat
from search.tracking.mirror import fetch, is_url, mirrored
from search.watch import live_view

log = logging.getLogger(__name__)

DEVICE = {"measure_on", "tls_ca", "tls_cert", "tls_key", "token_file", "server_name"}
RESUMABLE = {
    "evals",
    "time_budget_s",
    "actors",
    "reuse",
    "track",
    "mirror",
} | DEVICE  # may be given anew with --resume


def new_search(
    given: dict[str, Any], project: Path, name: str, exist_ok: bool, console: Console
) -> RunFolder:
    """Check the options, make the run folder and search; return the folder.

    Raises:
        InputError: An option is wrong; no run folder is left behind.
        InfeasibleError: No candidate can meet a budget.
    """
    start_logging(console)
    return search_problem(prepare(read_settings(given)), project, name, exist_ok, console)


def search_problem(
    problem: Problem, project: Path, name: str, exist_ok: bool, console: Console
) -> RunFolder:
    """Make the run folder of a problem and search; return the folder.

    Raises:
        InputError: What tracks the run is not installed, or the folder cannot be had.
    """
    check_installed(problem.settings)
    run = new_run(project, name, exist_ok)
    _run(problem, run, console)
    return run


def resume_search(where: str, project: Path, given: dict[str, Any], console: Console) -> None:
    """Go on with a run from its journal.

    Args:
        where: Its folder, or the URL of its mirror, which is fetched first.
        project: Where runs are kept.
        given: Options to change.
        console: Where to print.

    Raises:
        InputError: Not a run, or options that would change what was already evaluated.
    """
    start_logging(console)
    changed = sorted(set(given) - RESUMABLE)
    if changed:
        options = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise InputError(
            f"--resume goes on with the run's own settings; got {options} as well.",
            "Leave them out, or start a new run. --evals, --time-budget, --actors, --reuse, "
            "--track, --mirror and --measure-on with its keys may change.",
        )
    if is_url(where):
        run = fetch(where, project)
        given = {"mirror": where.rstrip("/").rsplit("/", 1)[0], **given}  # goes on there, too
    else:
        run = RunFolder(Path(where))
    settings = read_settings({**run.read_settings().model_dump(mode="json"), **given})
    check_installed(settings)
    problem = prepare(settings)
    log.info("resuming %s", run.path)
    _run(problem, run, console)


def read_settings(given: dict[str, Any]) -> Settings:
    """Validate options; those not given take their defaults.

    Raises:
        InputError: With the first option that is wrong.
    """
    given = dict(given)
    if isinstance(given.get("time_budget_s"), str):
        given["time_budget_s"] = parse_duration_s(given["time_budget_s"])
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "settings"
        if option == "--latency" and first["type"] == "missing":
            raise InputError(
                "--latency is missing: expected a budget.", "Give for example --latency 30ms."
            ) from None
        raise InputError(f"{option} {first['input']}: {first['msg']}.") from None


def _run(problem: Problem, run: RunFolder, console: Console) -> None:
    """Search, and write what was found even when interrupted."""
    start = time.monotonic()
    run.write_study(problem.settings, _resolved(problem))
    with (
        logging_to(run.log),
        Ledger(
            run.journal,
            problem.protocol,
            [RunFolder(Path(other)).journal for other in problem.settings.reuse],
        ) as ledger,
        mirrored(run, problem.settings.mirror) as mirrors,
        live_view(console, run) as progress,
        _pool(problem) as pool,
        devices(problem.settings) as device_pool,
    ):
        log.info(
            "%s on %s, %d variables, %s pool of %d",
            problem.settings.weights,
            problem.settings.target,
            len(problem.space.upper),
            type(pool).__name__,
            pool.size,
        )
        budget_s = problem.settings.time_budget_s
        session = Session(
            ledger,
            pool,
            progress,
            stop_at=None if budget_s is None else start + budget_s,
            note=partial(write_status, run),
        )
        evaluator = problem.build()
        bench = None
        if device_pool is not None:
            bench = Bench(
                device_pool, ledger, evaluator, native_format(problem), run.measured,
                problem.dense(), problem.model.profile.baseline_bits,
            )  # fmt: skip
            problem = on_device(problem, bench)
            run.write_study(problem.settings, _resolved(problem))
        with Heartbeat(session, [*trackers(run, problem.settings), *mirrors]):
            result = _search(problem, session, run, evaluator, bench)
    _show(problem, result, run, console, time.monotonic() - start)


def _search(
    problem: Problem, session: Session, run: RunFolder, evaluator: Evaluator, bench: Bench | None
) -> Result:
    dense = score_dense(problem, session)
    log.info(
        "dense: %s",
        "; ".join(
            f"{p.candidate.imgsz} px mAP50-95 {accuracy(p.score):.3f}, {p.cost.latency_ms:.2f} ms"
            for p in dense
        ),
    )
    limits = problem.limits_above(dense[0].score)
    points: dict[str, Point] = {}
    try:
        explore(problem, session, points)
        front = verify(problem, session, list(points.values()))
    except KeyboardInterrupt:
        front = name_points(problem, list(points.values()))
        result = Result(tuple(front), tuple(dense), limits, {})
        write_outputs(run, problem, result)
        write_report(run, problem, result, list(points.values()))
        log.warning(
            "interrupted: %s holds the front so far, mAP on %d images; go on with --resume %s",
            run.front,
            SUBSET_IMAGES,
            run.path,
        )
        raise
    result = Result(tuple(front), tuple(dense), limits, {}, {} if bench else None)
    write_outputs(run, problem, result)
    if bench is not None:
        result = _measured(problem, session, bench, result, list(points.values()))
        write_outputs(run, problem, result)
    picked = {p.id: p for limit in limits if (p := result.pick(limit)) is not None}
    delivered = [dense[0], *picked.values()]
    exported = deliver(run, problem, evaluator, delivered, bench)
    result = replace(result, exported=exported)
    if bench is not None:  # of recovered files, too
        result = replace(result, measured=times_of(session.ledger, bench.how))
    result = with_recovered(run, problem, result)
    write_outputs(run, problem, result)
    write_report(run, problem, result, list(points.values()))
    check_reached(result.limits, result.measured)
    check_delivered(delivered, exported)
    return result


def _measured(
    problem: Problem, session: Session, bench: Bench, result: Result, explored: list[Point]
) -> Result:
    """Find picks that were measured within their budgets; they are on the front, come what may."""
    points, times = keep_promise(problem, session, bench, result, explored)
    result = replace(result, measured=times)
    front = {p.candidate.digest: p for p in name_points(problem, points)}
    picks = (best_of(points, partial(result.meets, limit=limit)) for limit in result.limits)
    front |= {pick.candidate.digest: pick for pick in picks if pick is not None}
    ordered = sorted(front.values(), key=lambda point: point.cost.latency_ms)
    named = [replace(point, id=f"p{number:02d}") for number, point in enumerate(ordered, start=1)]
    return replace(result, front=tuple(named))


@contextmanager
def _pool(problem: Problem) -> Iterator[Pool]:
    """Yield who evaluates: actors, or this process with `--actors 0`."""
    images = {
        "proxy": SUBSET_IMAGES,
        "subset": SUBSET_IMAGES,
        "full": len(problem.validation.images),
    }

    def deadline_s(task: Task) -> float:
        # Ten times what a slow CPU takes for an image, and time for what is measured once.
        return 180.0 + 5.0 * images[task.rung]

    pool: Pool
    if problem.settings.actors == 0:
        pool = InProcessPool(problem.build)
    else:
        pool = RayPool(problem.build, problem.settings.actors, deadline_s, problem.use_gpus)
    # Only now: Ray sets a handler of its own when it starts.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield pool
    finally:
        pool.close()


def _interrupt(*_: object) -> None:
    """Treat SIGTERM like Ctrl-C: end in good order."""
    raise KeyboardInterrupt


def _resolved(problem: Problem) -> dict[str, Any]:
    """Return what the settings amount to on this machine, for study.yaml."""
    dense = problem.cost(problem.dense())
    return {
        "budgets_ms": {limit.text: limit.latency_ms for limit in problem.limits},
        "dense_latency_ms": dense.latency_ms,
        "power_mode": problem.settings.power_mode or problem.model.profile.default_power_mode,
        "imgsz": list(problem.sizes),
        "variables": len(problem.space.upper),
        "weights_digest": problem.detector.digest,
        "validation_digest": problem.validation.digest,
        "protocol": problem.protocol,
        "versions": {
            "python": platform.python_version(),
            **{
                name: version(name) for name in ("paretrim", "torch", "ultralytics", "pymoo", "ray")
            },
        },
    }


def _show(
    problem: Problem, result: Result, run: RunFolder, console: Console, seconds: float
) -> None:
    """Print the front, the pick for each budget and where everything lies."""
    console.print(front_table(problem, result))
    for limit in result.limits:
        console.print(describe_pick(result, limit), style="bold")
    if hint := advice(result):
        console.print(hint)
    console.print(f"Report:  {run.report}", f"Models:  {run.path / 'models'}", sep="\n")
    measured = "none was measured" if result.measured is None else "but those said to be measured"
    console.print(f"Took {seconds:.0f} s. Latencies are predicted, {measured}.")

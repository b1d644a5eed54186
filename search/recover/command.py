"""The whole of `paretrim recover`, from the run folder and back into it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from hw_models.errors import DeviceError, InputError
from search.finished import Finished, read_finished
from search.outputs import describe_pick, front_table
from search.progress import logging_to, start_logging
from search.recover.measured import measure_recovered
from search.recover.points import deliver_recovered
from search.recover.trials import default_rate, make_payload, trial_configs
from search.recover.tuning import tune_points
from search.recover.wish import Wish, check


def recover(folder: Path, wish: Wish, console: Console) -> None:
    """Fine-tune points of a run and put them into its front.

    Raises:
        InputError: No finished run lies there, a point is unknown, or an option is wrong.
        CorruptRunError: The run's files contradict each other, or a file is not what was trained.
        DeviceError: The devices of a run with `--measure-on` have trouble.
    """
    start_logging(console)
    check(wish)
    finished = read_finished(folder)
    with logging_to(finished.run.log):
        carry_out(finished, wish)
    finished = read_finished(folder)
    finished.write()
    console.print(front_table(finished.problem, finished.merged))
    for limit in finished.merged.limits:
        console.print(describe_pick(finished.merged, limit), style="bold")
    run = finished.run
    console.print(f"Report:  {run.report}", f"Models:  {run.path / 'models'}", sep="\n")


def carry_out(finished: Finished, wish: Wish) -> list[str]:
    """Train points and write what became of them into the run; return the new points' ids.

    Raises:
        DeviceError: See `recover`; the points are written all the same.
    """
    chosen = finished.choose(wish.points)
    evaluator = finished.problem.build()
    payload = make_payload(finished, evaluator, chosen, wish)
    dense = finished.searched.dense[0]
    rates = {point.id: default_rate(point, dense) for point in chosen}
    configs = trial_configs(rates, len(payload.training), wish)
    trials = tune_points(finished.run, payload, configs)
    names = [
        deliver_recovered(finished, evaluator, point, payload, trials[point.id])
        for point in chosen
        if trials[point.id].best is not None
    ]
    try:
        measure_recovered(finished, evaluator, names)
    except (DeviceError, InputError):  # what was trained joins the front all the same
        read_finished(finished.run.path).write()
        raise
    return names

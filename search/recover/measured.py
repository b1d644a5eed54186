"""The files of recovered points, timed on the devices of their run."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from evaluators.evaluator import Evaluator
from hw_models.errors import DeviceError
from search.deliver import native_format
from search.finished import Finished
from search.ledger import Ledger
from search.measure import Bench, devices
from search.run_folder import write_whole

log = logging.getLogger(__name__)


def measure_recovered(finished: Finished, evaluator: Evaluator, names: Sequence[str]) -> None:
    """Time the files of recovered points, if the search measured its picks.

    Latencies go into the points' records and recipes.

    Args:
        finished: The run.
        evaluator: Builds the dense model, beside which files are timed.
        names: Ids of the points, exported already.

    Raises:
        InputError: The devices are of several kinds, or their keys cannot be read.
        DeviceError: They have trouble; the points stay as they are, not measured.
    """
    if not names or not finished.problem.settings.measure_on:
        return
    run, problem = finished.run, finished.problem
    try:
        with (
            devices(problem.settings) as pool,
            Ledger(run.journal, problem.protocol) as ledger,
        ):
            assert pool is not None
            bench = Bench(
                pool, ledger, evaluator, native_format(problem), run.measured,
                problem.dense(), problem.model.profile.baseline_bits,
            )  # fmt: skip
            for name in names:
                timed = bench.measure_file(run.model(name) / "model.onnx")
                for path in (run.recovered / f"{name}.json", run.model(name) / "recipe.json"):
                    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                    text = json.dumps(record | {"measured": asdict(timed)}, indent=1)
                    write_whole(path, text + "\n")
                log.info("measured %s: %.3f ms on %s", name, timed.latency_ms, timed.device)
    except DeviceError:
        log.error(
            "%s: trained and kept, but not measured; that is made up for by the same command",
            ", ".join(names),
        )
        raise

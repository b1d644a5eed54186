"""The files of recovered points, timed on the devices of their run."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from evaluators.evaluator import Evaluator
from hw_models.errors import DeviceError, InputError
from search.deliver import native_format
from search.finished import Finished
from search.ledger import Ledger
from search.measure import Bench, devices
from search.run_folder import write_whole
from spaces.candidate import Candidate

log = logging.getLogger(__name__)


def measure_recovered(finished: Finished, evaluator: Evaluator, names: Sequence[str]) -> None:
    """Time the files of recovered points, if the search measured its picks.

    Latencies go into the journal and the points' recipes.

    Args:
        finished: The run.
        evaluator: Builds the dense model, beside which files are timed.
        names: Ids of the points, exported already.

    Raises:
        InputError: The devices are of several kinds, or their keys cannot be read.
        DeviceError: They have trouble, or are not as they were; the points stay, not measured.
    """
    if not names or finished.how is None:
        return
    run, problem = finished.run, finished.problem
    try:
        with (
            devices(problem.settings) as pool,
            Ledger(run.journal, problem.protocol) as ledger,
        ):
            if pool is None:
                log.warning("no device is named any more: recovered files are not measured")
                return
            bench = Bench(
                pool, ledger, evaluator, native_format(problem), run.measured,
                problem.dense(), problem.model.profile.baseline_bits, finished.how,
            )  # fmt: skip
            for name in names:
                path = run.model(name) / "recipe.json"
                recipe: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                candidate = Candidate.from_dict(recipe["candidate"])
                timed = bench.measure_file(run.model(name) / "model.onnx", candidate)
                text = json.dumps(recipe | {"measured": asdict(timed)}, indent=1)
                write_whole(path, text + "\n")
                log.info("measured %s: %.3f ms on %s", name, timed.latency_ms, timed.device)
    except (DeviceError, InputError):
        log.error(
            "%s: trained and kept, but not all measured; that is made up for by the same command",
            ", ".join(names),
        )
        raise

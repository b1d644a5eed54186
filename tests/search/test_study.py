from __future__ import annotations

import logging

import numpy as np
import pytest

from search.study import kinds_of, log_proxies
from tests.search.toys import additive, explore, toy_problem


def test_proxies_are_ranked_by_what_varies(caplog: pytest.LogCaptureFixture) -> None:
    problem = toy_problem(latency=("92%",), method="nsga2", evals=90)
    explorer = explore(problem, additive(problem))
    kinds = {kinds_of(problem, point) for point in explorer.points.values()}
    assert kinds >= {"nothing", "channels", "bits + channels"}
    with caplog.at_level(logging.INFO):
        log_proxies(problem, list(explorer.points.values()))
    assert caplog.messages[0].startswith("proxies (all): Spearman")
    joint = next(line for line in caplog.messages if "bits + channels" in line)
    # The formula's proxies are exact: mAP at each size is a falling function of them.
    correlation = float(joint.split("disagreement ")[1].split(";")[0])
    assert correlation == pytest.approx(1.0, abs=0.01)


def test_the_input_size_alone_is_no_change() -> None:
    problem = toy_problem(latency=("92%",), method="random", evals=4)
    explorer = explore(problem, lambda genome: 0.1 * float(np.count_nonzero(genome)))
    dense = [p for p in explorer.points.values() if p.candidate == problem.dense(256)]
    assert [kinds_of(problem, point) for point in dense] == ["nothing"]

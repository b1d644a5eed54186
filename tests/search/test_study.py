from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from search.study import kinds_of, log_proxies, outcome_of
from tests.search.toys import additive, explore, toy_problem


def test_proxies_are_ranked_by_what_varies(caplog: pytest.LogCaptureFixture) -> None:
    problem = toy_problem(latency=("92%",), method="nsga2", evals=90)
    explorer = explore(problem, additive(problem))
    kinds = {kinds_of(problem, point) for point in explorer.points.values()}
    assert kinds >= {"nothing", "channels", "bits + channels"}
    caplog.clear()
    with caplog.at_level(logging.INFO):
        log_proxies(problem, list(explorer.points.values()))
    assert caplog.messages[0].startswith("proxies (all): Spearman")
    joint = next(line for line in caplog.messages if "bits + channels" in line)
    # The formula's proxies are exact: mAP at each size is a falling function of them.
    correlation = float(joint.split("disagreement ")[1].split(";")[0])
    assert correlation == pytest.approx(1.0, abs=0.01)


def test_what_was_expected_is_compared_with_what_came_out() -> None:
    problem = toy_problem(latency=("92%",), method="nsga2", evals=40)
    points = list(explore(problem, additive(problem)).points.values())
    lower = [
        replace(p, score=replace(p.score, map50_95=0.9 * p.score.map50_95, rung="full"))
        for p in points[5:30]
    ]
    said = outcome_of(problem, points, lower)
    off = np.mean(
        [x.score.map50_95 - p.score.map50_95 for x, p in zip(lower, points[5:], strict=False)]
    )
    assert said.startswith(
        f"25 points on all images: mAP50-95 is {off:+.3f} from what was expected"
    )
    assert said.endswith("Spearman 1.000")


def test_the_input_size_alone_is_no_change() -> None:
    problem = toy_problem(latency=("92%",), method="random", evals=4)
    explorer = explore(problem, lambda genome: 0.1 * float(np.count_nonzero(genome)))
    dense = [p for p in explorer.points.values() if p.candidate == problem.dense(256)]
    assert [kinds_of(problem, point) for point in dense] == ["nothing"]

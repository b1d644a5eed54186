"""What is said about picks."""

from __future__ import annotations

import pytest

from evaluators.score import Score
from hw_models.cost import Cost
from search.front import Point
from search.outputs import Result, advice
from search.settings import Limits
from spaces.candidate import Candidate


def point(name: str, latency_ms: float, map50_95: float, imgsz: int = 320) -> Point:
    cost = Cost(latency_ms, latency_ms, latency_ms, 1.0, int(1e6 * latency_ms), 1, per_layer=())
    score = Score(map50_95, map50_95, 0.0, 1.0, 128, "full")
    kept = () if name == "dense" else (("group", int(100 * latency_ms)),)
    return Point(name, "paretrim", Candidate(imgsz, kept), cost, score)


DENSE = (point("dense", 4.0, 0.78), point("dense", 2.0, 0.52, imgsz=160))
WITHIN = Limits("30ms", 30.0)


@pytest.mark.parametrize(
    ("front", "said"),
    [
        ((point("p1", 3.0, 0.777), DENSE[0]), "p1 is hardly less accurate than dense"),
        ((point("p1", 3.0, 0.76), DENSE[0]), ""),
        ((point("p1", 3.9, 0.777), DENSE[0]), ""),
        ((point("p1", 3.0, 0.6),), "A smaller input alone does as well"),
        ((point("p1", 3.0, 0.7),), ""),
    ],
)
def test_advice_names_what_is_level_or_better(front: tuple[Point, ...], said: str) -> None:
    advised = advice(Result(front, DENSE, (WITHIN,), {}))
    assert advised.startswith(said)
    assert bool(advised) == bool(said)


def test_a_level_point_is_named_with_its_savings() -> None:
    advised = advice(Result((point("p1", 3.0, 0.777), DENSE[0]), DENSE, (WITHIN,), {}))
    assert "mAP50-95 0.777 at 3.00 ms predicted and 75% of its size" in advised

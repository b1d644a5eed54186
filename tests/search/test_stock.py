from __future__ import annotations

from dataclasses import replace

import pytest

from evaluators.score import Score
from search.front import Point
from search.outputs import beats_stock
from search.stock import Rival, rivals, stock_latency_ms, stock_models
from tests.search.toys import demo_problem


def point(latency_ms: float, map50_95: float, imgsz: int = 640) -> Point:
    problem = demo_problem()
    cost = replace(problem.cost(problem.dense(320)), latency_ms=latency_ms)
    score = Score(map50_95, map50_95, 0.0, 1.0, 8, "full")
    return Point("p", "dense", replace(problem.dense(320), imgsz=imgsz), cost, score)


def test_published_figures_rise_with_size() -> None:
    models = stock_models()
    assert [model.variant for model in models] == list("nsmlx")
    assert [m.map50_95 for m in models] == sorted(m.map50_95 for m in models)


def test_a_data_set_that_is_not_coco_has_no_stock_models() -> None:
    assert rivals(demo_problem(), [point(5.0, 0.5)]) == []


def test_on_coco_stock_models_up_to_the_dense_latency_are_rivals() -> None:
    demo = demo_problem()
    names = ("person", *map(str, range(79)))
    coco = replace(demo, validation=replace(demo.validation, names=names))
    nano_ms = stock_latency_ms("n", 640, "jetson-xavier-nx", None)
    (nano,) = rivals(coco, [point(1.001 * nano_ms, 0.3)])
    assert nano == Rival("YOLOv5n at 640 px", nano_ms, pytest.approx(0.28))
    assert rivals(coco, [point(0.9 * nano_ms, 0.3)]) == []


def test_a_point_must_beat_both_scaling_and_smaller_models() -> None:
    dense = [point(10.0, 0.40), point(6.0, 0.30)]
    assert beats_stock(point(8.0, 0.36), dense) is True  # the line is at .35
    assert beats_stock(point(8.0, 0.36), dense, [Rival("", 7.0, 0.37)]) is False
    assert beats_stock(point(8.0, 0.36), dense, [Rival("", 9.0, 0.37)]) is True
    assert beats_stock(point(5.0, 0.36), dense) is None
    assert beats_stock(point(5.0, 0.36), dense, [Rival("", 4.0, 0.2)]) is True

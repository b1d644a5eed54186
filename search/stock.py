"""What a user could have without compressing anything: the stock YOLOv5 models, on the same device.

Their accuracy on COCO is published (`stock.csv`, with its source); their latency is predicted by
the same hardware model as the candidates'. The validation images may be a part of COCO's, and
easier or harder than the whole: where the dense model is a stock model scored at 640 px, all
published figures are scaled by the ratio of its own accuracy here to its published one.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from hw_models.cost import CostModel
from hw_models.device import load_profile
from hw_models.workload import ConvShape, OtherOp, Workload
from search.front import Point
from search.problem import Problem, accuracy
from spaces.architecture import build, read_yaml
from spaces.groups import analyse
from spaces.model import Detector

STOCK = Path(__file__).with_name("stock.csv")
COCO_CLASSES = 80
SAME = 0.1  # relative difference in parameters below which a model is taken for a stock one


@dataclass(frozen=True, slots=True)
class StockModel:
    """A published model.

    Attributes:
        variant: `n`, `s`, `m`, `l` or `x`.
        imgsz: Input size in pixels.
        map50_95: On COCO val2017.
        params_m: Million parameters.
    """

    variant: str
    imgsz: int
    map50_95: float
    params_m: float


def stock_models() -> tuple[StockModel, ...]:
    """Read the published figures, the smallest model first."""
    lines = STOCK.read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return tuple(
        StockModel(r["variant"], int(r["imgsz"]), float(r["map50_95"]), float(r["params_m"]))
        for r in rows
    )


@dataclass(frozen=True, slots=True)
class Rival:
    """A stock model on the device in question.

    Attributes:
        name: Such as `YOLOv5n at 640 px`.
        latency_ms: Predicted.
        map50_95: Published, scaled to the validation images.
    """

    name: str
    latency_ms: float
    map50_95: float


def rivals(problem: Problem, dense: Sequence[Point]) -> list[Rival]:
    """Return the stock models no slower than the dense model or the largest budget.

    Empty where the data set is not COCO.

    Args:
        problem: The target and the data set.
        dense: The uncompressed model, scored at several input sizes.
    """
    names = problem.validation.names
    if len(names) != COCO_CLASSES or "person" not in names:
        return []
    ratio = _ratio(problem, dense)
    slowest_ms = max(
        *(point.cost.latency_ms for point in dense), *(x.latency_ms for x in problem.limits)
    )
    found = []
    for model in stock_models():  # slower and slower: the large ones take long to trace
        latency_ms = stock_latency_ms(
            model.variant, model.imgsz, problem.settings.target, problem.settings.power_mode
        )
        if latency_ms > slowest_ms:
            break
        name = f"YOLOv5{model.variant} at {model.imgsz} px"
        found.append(Rival(name, latency_ms, ratio * model.map50_95))
    return found


def _ratio(problem: Problem, dense: Sequence[Point]) -> float:
    """Return the dense model's accuracy here over its published one; 1 where that is unknown."""
    params_m = (
        sum(layer.weights + layer.out_channels for layer in problem.space.network.layers) / 1e6
    )
    for model in stock_models():
        if abs(params_m - model.params_m) <= SAME * model.params_m:
            for point in dense:
                if point.candidate.imgsz == model.imgsz:
                    return accuracy(point.score) / model.map50_95
    return 1.0


@cache
def stock_latency_ms(variant: str, imgsz: int, target: str, power_mode: str | None) -> float:
    """Predict the latency of a stock model at a device's baseline precision."""
    profile = load_profile(target)
    layers = (_at_bits(step, profile.baseline_bits) for step in _stock_steps(variant, imgsz))
    workload = Workload(tuple(layers), input_shape=(3, imgsz, imgsz))
    return CostModel(profile, power_mode).predict(workload).latency_ms


@cache
def _stock_steps(variant: str, imgsz: int) -> tuple[ConvShape | OtherOp, ...]:
    """Return the steps of a stock model: the classic architecture, weights as they come."""
    architecture = {**read_yaml(Path(f"yolov5{variant}.yaml")), "anchors": 3}
    net = build(architecture, f"yolov5{variant}")
    names = tuple(map(str, range(COCO_CLASSES)))
    return analyse(Detector(net, names, imgsz), imgsz).steps


def _at_bits(step: ConvShape | OtherOp, bits: int) -> ConvShape | OtherOp:
    if isinstance(step, ConvShape):
        return replace(step, weight_bits=bits, act_bits=bits)
    return replace(step, act_bits=bits)

"""The networks that a live device is calibrated on. A name and an input size say all of one.

| name | what it is |
| --- | --- |
| `stem-32` | YOLOv5's first layer: 6x6, stride 2, to 32 channels |
| `conv3-64-48` | four 3x3 convolutions in a row: 64 to 48 channels, back, and again |
| `down-16` | three 3x3 convolutions of stride 2, from 16 channels, doubling them |
| `pools-64` | YOLOv5's SPPF: three 5x5 poolings, joined |
| `join-64` | a map enlarged and joined to one of that size, twice |
| `yolov5u-w25-d33-c80-s3-q50` | a YOLOv5u: width .25, depth .33, 80 classes; some channels |
| | removed at random (seed 3; 0: none), half of its convolutions quantised when it is INT8 |

The architecture of YOLOv5u is that of ultralytics' `yolov5.yaml`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hw_models.errors import InputError
from hw_models.probe_graph import REG_MAX, Map, ProbeGraph
from hw_models.workload import Workload

ROW = 4
"""Convolutions in a row: what the runtime does at both ends weighs less."""
GRANULE = 8


@dataclass(frozen=True, slots=True)
class Probe:
    """A network to measure.

    Args:
        workload: What a cost model is asked about.
        graph: What it is made of.
        outputs: Names of its outputs.
    """

    workload: Workload
    graph: ProbeGraph
    outputs: tuple[str, ...]

    def onnx(self) -> bytes:
        """Return the ONNX file."""
        return self.graph.onnx(self.outputs)


def probe(name: str, rows: int, *, int8: bool) -> Probe | None:
    """Make a network.

    Args:
        name: See the module.
        rows: Rows and columns of its input.
        int8: Whether its convolutions are quantised.

    Returns:
        None if no probe has such a name.
    """
    for pattern, make in _MAKERS.items():
        if match := re.fullmatch(pattern, name):
            return make(rows, int8, *map(int, match.groups()))
    return None


def _made(graph: ProbeGraph, *outputs: Map) -> Probe:
    return Probe(graph.workload(), graph, tuple(x.name for x in outputs))


def _stem(rows: int, int8: bool, channels: int) -> Probe:
    graph = ProbeGraph(3, rows, float(int8))
    return _made(graph, graph.conv(graph.image, channels, 6, 2))


def _row_of(rows: int, int8: bool, kernel: int, first: int, second: int) -> Probe:
    graph = ProbeGraph(first, rows, float(int8))
    x = graph.image
    for number in range(ROW):
        x = graph.conv(x, first if number % 2 else second, kernel)
    return _made(graph, x)


def _down(rows: int, int8: bool, channels: int) -> Probe:
    graph = ProbeGraph(channels, rows, float(int8))
    x = graph.image
    for number in range(1, 4):
        x = graph.conv(x, channels * 2**number, 3, 2)
    return _made(graph, x)


def _pools(rows: int, int8: bool, channels: int) -> Probe:
    graph = ProbeGraph(channels, rows, float(int8))
    return _made(graph, _sppf(graph, graph.image, channels // 2, channels))


def _join(rows: int, int8: bool, channels: int) -> Probe:
    graph = ProbeGraph(channels, rows, float(int8))
    small = graph.conv(graph.image, channels)
    middle = graph.conv(graph.concat(graph.upsample(small), graph.upsample(small)), channels)
    return _made(
        graph, graph.conv(graph.concat(graph.upsample(middle), graph.upsample(middle)), channels)
    )


def _sppf(graph: ProbeGraph, x: Map, inner: int, out: int) -> Map:
    y = graph.conv(x, inner)
    first = graph.pool(y)
    second = graph.pool(first)
    return graph.conv(graph.concat(y, first, second, graph.pool(second)), out)


@dataclass(slots=True)
class _Widths:
    """The channels of each layer: those of the architecture, or at random fewer.

    Args:
        width: Share of the channels of the largest model.
        random: None: all are kept.
    """

    width: float
    random: np.random.Generator | None
    level: float = 1.0

    def __post_init__(self) -> None:
        if self.random is not None:
            self.level = self.random.uniform(0.3, 1.0)

    def __call__(self, channels: float) -> int:
        """Return the channels kept of `channels` x width: a multiple of `GRANULE`."""
        full = GRANULE * math.ceil(channels * self.width / GRANULE)
        return self.kept(full)

    def kept(self, full: int) -> int:
        """Return the channels kept of `full`."""
        if self.random is None:
            return full
        share = float(np.clip(self.random.normal(self.level, 0.2), 0.1, 1.0))
        return min(full, max(GRANULE, GRANULE * round(full * share / GRANULE)))


def _c3(
    graph: ProbeGraph, widths: _Widths, x: Map, channels: int, units: int, shortcut: bool
) -> Map:
    half = channels / 2
    first = widths(half)  # what is added to has the same channels for ever
    y = graph.conv(x, first)
    side = graph.conv(x, widths(half))
    for _ in range(units):
        z = graph.conv(graph.conv(y, widths(half)), first if shortcut else widths(half), 3)
        y = graph.add(z, y) if shortcut else z
    return graph.conv(graph.concat(y, side), widths(channels))


def _yolov5u(
    rows: int, int8: bool, width: int, depth: int, classes: int, seed: int, share: int
) -> Probe:
    graph = ProbeGraph(3, rows, share / 100 * int8, seed)
    widths = _Widths(width / 100, np.random.default_rng(seed) if seed else None)
    x = graph.conv(graph.image, widths(64), 6, 2)
    levels = []
    for channels, units in ((128, 3), (256, 6), (512, 9), (1024, 3)):
        x = graph.conv(x, widths(channels), 3, 2)
        x = _c3(graph, widths, x, channels, max(1, round(units * depth / 100)), True)
        levels.append(x)
    x = _sppf(graph, x, widths(512), widths(1024))
    units, laterals = max(1, round(3 * depth / 100)), []
    for channels, skip in ((512, levels[2]), (256, levels[1])):
        x = graph.conv(x, widths(channels))
        laterals.append(x)
        x = _c3(graph, widths, graph.concat(graph.upsample(x), skip), channels, units, False)
    outputs = [x]
    for channels, lateral in ((512, laterals[1]), (1024, laterals[0])):
        x = graph.concat(graph.conv(x, widths(channels // 2), 3, 2), lateral)
        x = _c3(graph, widths, x, channels, units, False)
        outputs.append(x)
    # The head's widths follow those of the dense model's smallest map.
    smallest = GRANULE * math.ceil(256 * width / 100 / GRANULE)
    boxes, scores = max(16, smallest // 4, 4 * REG_MAX), max(smallest, min(classes, 100))
    heads = []
    for x in outputs:
        box = graph.conv(graph.conv(x, widths.kept(boxes), 3), widths.kept(boxes), 3)
        score = graph.conv(graph.conv(x, widths.kept(scores), 3), widths.kept(scores), 3)
        heads.append(
            (graph.conv(box, 4 * REG_MAX, plain=True), graph.conv(score, classes, plain=True))
        )
    output = graph.decode(heads, classes)
    return Probe(graph.workload(), graph, (output,))


_MAKERS: dict[str, Callable[..., Probe]] = {
    r"stem-(\d+)": _stem,
    r"conv(\d)-(\d+)-(\d+)": _row_of,
    r"down-(\d+)": _down,
    r"pools-(\d+)": _pools,
    r"join-(\d+)": _join,
    r"yolov5u-w(\d+)-d(\d+)-c(\d+)-s(\d+)-q(\d+)": _yolov5u,
}


def probe_workload(name: str, rows: int, *, int8: bool) -> Workload:
    """Return the layers of a probe.

    Raises:
        InputError: No probe has such a name.
    """
    made = probe(name, rows, int8=int8)
    if made is None:
        raise InputError(f"No probe network {name!r}.", f"Names: {', '.join(_MAKERS)}.")
    return made.workload

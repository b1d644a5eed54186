"""Measured rows, and how the model prices many of them at once."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hw_models.cost import Tables, Vector
from hw_models.device import DeviceProfile
from hw_models.errors import InputError
from hw_models.networks import measured_network
from hw_models.workload import ConvBatch, OpBatch, Workload, WorkloadBatch

POINT_COLUMNS = (
    "origin", "network", "input_h", "input_w", "batch", "power_mode", "precision", "metric",
    "value", "role", "source", "note",
)  # fmt: skip
BITS = {"fp32": 32, "fp16": 16, "int8": 8}
LATENCY, HOST_LATENCY, POWER, ENERGY = "latency_ms", "host_latency_ms", "power_w", "energy_mj"
"""Time of one batch on the compute units; with host; power during the run; energy of one image."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measured row.

    Args:
        origin: Collection the figure comes from; each has a fixed time of its own.
        network: Key of measurements/networks.csv.
        input_h: Input rows.
        input_w: Input columns.
        batch: Images at once.
        power_mode: Mode of the profile, or clocks.
        precision: `fp32`, `fp16` or `int8`.
        metric: What was measured.
        value: The figure, of one batch (energy: of one image).
        role: `calibrate` or `validate`.
    """

    origin: str
    network: str
    input_h: int
    input_w: int
    batch: int
    power_mode: str
    precision: str
    metric: str
    value: float
    role: str

    @property
    def bits(self) -> int:
        """The precision in bits."""
        return BITS[self.precision]

    @property
    def workload(self) -> Workload:
        """The network as measured."""
        return measured_network(
            self.network, self.input_h, self.input_w, batch=self.batch, bits=self.bits
        )


def read_points(path: Path) -> list[Point]:
    """Read a table of measurements.

    Raises:
        InputError: The file is missing or a row of it is malformed.
    """
    if not path.is_file():
        raise InputError(f"No table of measurements at {path}.")
    kinds = Point.__annotations__
    convert: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}
    points = []
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                point = Point(**{key: convert[kind](row[key]) for key, kind in kinds.items()})
                if point.value <= 0 or point.precision not in BITS or point.batch < 1:
                    raise ValueError("value, precision or batch out of range")
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"{path}, line {number} is not a measurement ({error}).",
                    f"Expected the columns {', '.join(POINT_COLUMNS)}.",
                ) from error
            points.append(point)
    return points


class Fleet:
    """The layers of many measured rows as one long batch, so that all are priced at once.

    Args:
        points: The rows.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = tuple(points)
        self.measured = np.asarray([point.value for point in points])
        self._parts = [
            (mode, _pack([(i, p) for i, p in enumerate(points) if p.power_mode == mode]))
            for mode in dict.fromkeys(point.power_mode for point in points)
        ]

    def latency_ms(self, profile: DeviceProfile, fixed_us: Mapping[str, float]) -> Vector:
        """Predict the latency of every row; `fixed_us` by origin."""
        total_us = np.zeros(len(self.points))
        fixed = np.asarray([fixed_us.get(p.origin, profile.fixed_us) for p in self.points])
        for name, part in self._parts:
            tables = Tables(profile, profile.mode(name), np.float64)
            convs = tables.convs(part.convs, part.conv_images)
            others = tables.others(part.others, part.other_images)
            total_us += np.bincount(part.conv_rows, convs.time_us[0], len(self.points))
            total_us += np.bincount(part.other_rows, others.time_us[0], len(self.points))
            total_us[part.rows] += fixed[part.rows] / tables.waiting
        return np.asarray(total_us / 1e3)


@dataclass(frozen=True, slots=True)
class _Part:
    rows: npt.NDArray[np.intp]
    convs: ConvBatch
    conv_rows: npt.NDArray[np.intp]
    conv_images: Vector
    others: OpBatch
    other_rows: npt.NDArray[np.intp]
    other_images: Vector


def _pack(points: Sequence[tuple[int, Point]]) -> _Part:
    layers: list[Any] = []
    rows: list[int] = []
    images: list[int] = []
    for row, point in points:
        workload = point.workload
        layers += workload.layers
        rows += [row] * len(workload.layers)
        images += [point.batch] * len(workload.layers)
    batch = WorkloadBatch.of(Workload(tuple(layers)))
    is_conv = np.asarray([hasattr(layer, "kernel") for layer in layers])
    row_array, image_array = np.asarray(rows), np.asarray(images, dtype=np.float64)
    return _Part(
        np.asarray([row for row, _ in points]),
        batch.convs, row_array[is_conv], image_array[is_conv],
        batch.others, row_array[~is_conv], image_array[~is_conv],
    )  # fmt: skip

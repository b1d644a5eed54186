"""How far the shipped hardware models are off: `python -m benchmarks.hw_models`.

Every figure of the first tables is on `validate` rows, which were never fitted; predictions are
those of `paretrim predict`, without an offset for the origin of a row. Fitted rows appear only in
the parts that say so.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls
from scipy.stats import rankdata, spearmanr

from hw_models.cost import Cost, CostModel, Vector
from hw_models.device import (
    DEVICES,
    DeviceProfile,
    load_profile,
    read_profile_yaml,
    shipped_profiles,
)
from hw_models.energy_fit import errors_at_measured_times
from hw_models.networks import MEASUREMENTS, measured_network
from hw_models.points import ENERGY, LATENCY, Point, read_points
from hw_models.workload import WorkloadBatch

BEYOND_ENGINE = {
    "tf-trt-session": "time of a TensorFlow session",
    "python-end-to-end": "with pre- and post-processing in Python",
}
"""Origins whose time holds more than the engine's: shown, but not in the totals."""
Predictor = Callable[[Point], float]


@dataclass(frozen=True, slots=True)
class Errors:
    """Error measures of predictions against measurements."""

    rows: int
    mape: float
    rmspe: float
    within_10: float
    spearman: float

    @classmethod
    def of(cls, predicted: Vector, measured: Vector) -> Errors:
        """Compare."""
        relative = predicted / measured - 1
        rank = spearmanr(predicted, measured).statistic if len(set(measured)) > 2 else float("nan")
        return cls(
            len(measured),
            100 * float(np.mean(np.abs(relative))),
            100 * float(np.sqrt(np.mean(relative**2))),
            100 * float(np.mean(np.abs(relative) <= 0.1)),
            float(rank),
        )

    def cells(self) -> tuple[str, ...]:
        """Return the measures as text."""
        return (
            str(self.rows), f"{self.mape:.1f}", f"{self.rmspe:.1f}", f"{self.within_10:.0f}",
            f"{self.spearman:.3f}",
        )  # fmt: skip


def best_possible(points: Sequence[Point], measured: Vector) -> tuple[float, float]:
    """Return the MAPE and Spearman that no function of the inputs of a prediction can beat.

    The same network was measured several times in the same conditions, under other versions of
    the runtime or by other people: whatever is predicted for it, it is one number. The best one is
    among the measured; the best order is that of the mean ranks (for pairs, by exchange).
    """
    keys = [(p.network, p.input_h, p.input_w, p.batch, p.power_mode, p.precision) for p in points]
    ranks, errors, best = rankdata(measured), np.zeros(len(points)), np.zeros(len(points))
    for key in set(keys):
        same = np.asarray([other == key for other in keys])
        values = measured[same]
        errors[same] = min((np.abs(v / values - 1) for v in values), key=np.mean)
        best[same] = ranks[same].mean()
    order = spearmanr(best, measured).statistic if len(set(measured)) > 2 else float("nan")
    return 100 * float(errors.mean()), float(order)


def predict(profile: DeviceProfile, points: Iterable[Point]) -> list[Cost]:
    """Price every row as `paretrim predict` does."""
    return [CostModel(profile, point.power_mode).predict(point.workload) for point in points]


def _values(points: Sequence[Point]) -> Vector:
    return np.asarray([point.value for point in points])


def flops_only(points: Sequence[Point]) -> Predictor | None:
    """Fit time = a x MACs on relative errors."""
    return _linear(points, lambda p, macs, _: [macs])


def roofline(points: Sequence[Point]) -> Predictor | None:
    """Fit time = a + b x MACs + c x bytes on relative errors."""
    return _linear(points, lambda p, macs, moved: [1.0, macs, moved])


def _linear(
    points: Sequence[Point], features: Callable[[Point, float, float], list[float]]
) -> Predictor | None:
    if not points:
        return None

    def row(point: Point) -> list[float]:
        workload = point.workload
        elements = sum(
            workload.batch * (c.in_channels * c.stride[0] * c.stride[1] + c.out_channels)
            * c.out_h * c.out_w + c.weights
            for c in workload.convs
        )  # fmt: skip
        return features(point, workload.macs / 1e9, elements * point.bits / 8e9)

    measured = _values(points)
    matrix = np.asarray([row(point) for point in points]) / measured[:, None]
    solution, _ = nnls(matrix, np.ones(len(points)))
    return lambda point: float(np.dot(row(point), solution))


def latency_table(devices: Sequence[str]) -> Table:
    """Tabulate latency errors on `validate` rows by device, precision and origin."""
    table = Table("device", "prec.", "rows of", "n", "MAPE %", "RMSPE %", "±10 % %", "Spearman",
                  "in 90 % int. %", "best possible MAPE %, Spearman", "FLOPs MAPE %",
                  "roofline MAPE %",
                  title="Latency on validate rows (never fitted)")  # fmt: skip
    for device in devices:
        profile, points = _load(device, LATENCY)
        for precision in ("fp32", "fp16", "int8"):
            chosen = [p for p in points if p.precision == precision]
            held = [p for p in chosen if p.role == "validate"]
            fitted = [p for p in chosen if p.role == "calibrate"]
            engine = [p for p in held if p.origin not in BEYOND_ENGINE]
            if engine:
                _add(table, profile, f"{device}", precision, "all engine times", engine, fitted)
            for origin in sorted({p.origin for p in held}):
                rows = [p for p in held if p.origin == origin]
                note = BEYOND_ENGINE.get(origin)
                label = f"  {origin}" + (f" ({note}; not in the total)" if note else "")
                _add(table, profile, "", "", label, rows, fitted)
    return table


def _add(
    table: Table, profile: DeviceProfile, device: str, precision: str, label: str,
    points: Sequence[Point], fitted: Sequence[Point],
) -> None:  # fmt: skip
    costs, measured = predict(profile, points), _values(points)
    ours = Errors.of(np.asarray([cost.latency_ms for cost in costs]), measured)
    inside = [c.low_ms <= m <= c.high_ms for c, m in zip(costs, measured, strict=True)]
    others = [
        f"{Errors.of(np.asarray([rival(p) for p in points]), measured).mape:.1f}" if rival else "-"
        for rival in (flops_only(fitted), roofline(fitted))
    ]
    mape, order = best_possible(points, measured)
    table.add_row(
        device, precision, label, *ours.cells(), f"{100 * np.mean(inside):.0f}",
        f"{mape:.1f}, {order:.3f}", *others,
    )  # fmt: skip


def coverage_table(devices: Sequence[str]) -> Table:
    """Tabulate how many `validate` rows lie in their interval, over all devices together."""
    inside: dict[bool, list[bool]] = {True: [], False: []}
    for device in devices:
        profile, points = _load(device, LATENCY)
        held = [p for p in points if p.role == "validate" and p.origin not in BEYOND_ENGINE]
        for point, cost in zip(held, predict(profile, held), strict=True):
            calibrated = profile.intervals[point.bits].calibrated
            inside[calibrated].append(cost.low_ms <= point.value <= cost.high_ms)
    table = Table("precision of the device", "rows", "in 90 % interval %",
                  title="Intervals on validate rows of all devices")  # fmt: skip
    for label, rows in (
        ("calibrated", inside[True]),
        ("only transferred", inside[False]),
        ("all", [*inside[True], *inside[False]]),
    ):
        table.add_row(label, str(len(rows)), f"{100 * np.mean(rows):.0f}")
    return table


def energy_table(devices: Sequence[str]) -> Table:
    """Tabulate energy errors on `validate` rows."""
    table = Table("device", "prec.", "measured at", "n", "MAPE %", "RMSPE %", "±10 % %", "Spearman",
                  "MAPE % with host", "MAPE % at measured times",
                  title="Energy of one image on validate rows (never fitted)")  # fmt: skip
    for device in devices:
        profile, points = load_profile(device), read_points(MEASUREMENTS / f"{device}.csv")
        for precision in ("fp32", "fp16", "int8"):
            rows = [p for p in points if p.role == "validate" and p.precision == precision]
            held = [p for p in rows if p.metric == ENERGY]
            if held:
                batch = np.asarray([point.batch for point in held])
                energy = np.asarray([cost.energy_mj for cost in predict(profile, held)]) / batch
                host = np.asarray([_host_mj(profile, point) for point in held]) / batch
                alone = Errors.of(energy, _values(held))
                fed = Errors.of(energy + host, _values(held))
                timed = 100 * np.mean(np.abs(errors_at_measured_times(profile, rows)))
                table.add_row(
                    device, precision, profile.energy.measured_at, *alone.cells(),
                    f"{fed.mape:.1f}", f"{timed:.1f}",
                )  # fmt: skip
    return table


def _host_mj(profile: DeviceProfile, point: Point) -> float:
    return CostModel(profile, point.power_mode).host_energy_mj(point.workload)


def left_out_table(devices: Sequence[str]) -> Table:
    """Tabulate the errors on `calibrate` rows: fitted, and with each network left out in turn."""
    table = Table("device", "prec.", "rows", "networks", "fitted MAPE %", "left-out MAPE %",
                  "not explained (error > 65 %)",
                  title="Calibrate rows: FITTED, and each network left out of the fit")  # fmt: skip
    for device in devices:
        summary = read_profile_yaml(DEVICES / f"{device}.yaml")["residuals"]["latency"]
        for precision, numbers in summary.items():
            table.add_row(
                device, precision, str(numbers["rows"]), str(numbers["networks"]),
                f"{numbers['mape_percent']:.1f}", f"{numbers['left_out_mape_percent']:.1f}",
                ", ".join(numbers["unexplained"]) or "-",
            )  # fmt: skip
    return table


def scaling_table() -> Table:
    """Tabulate measured and predicted ratios along one axis of FITTED rows."""
    title = "Scaling along one axis (FITTED rows; ratio of largest to smallest)"
    table = Table("axis", "rows", "measured ratio", "predicted ratio", title=title)
    tx2, points = _load("jetson-tx2", LATENCY)
    cnv = [p for p in points if p.network.startswith("cnv_") and p.precision == "fp16"]
    for axis, key, value in (
        ("batch 1 to 128", lambda p: (p.network, p.power_mode), lambda p: p.batch),
        ("width 12.5 to 100 %", lambda p: (p.batch, p.power_mode), lambda p: _width(p)),
        ("clock MAXQ to MAXN", lambda p: (p.network, p.batch),
         lambda p: -tx2.mode(p.power_mode).gpu_mhz),
    ):  # fmt: skip
        _ratios(table, f"CNV on TX2, {axis}", tx2, cnv, key, value)
    nx, points = _load("jetson-xavier-nx", LATENCY)
    trt = [p for p in points if p.origin == "trtutils" and p.role == "calibrate"]
    _ratios(table, "YOLO on Xavier NX, 160 to 1280 px", nx, trt,
            lambda p: p.network, lambda p: p.input_h)  # fmt: skip
    return table


def _width(point: Point) -> float:
    return float(point.network.split("_")[1])


def _ratios(
    table: Table, axis: str, profile: DeviceProfile, points: Sequence[Point],
    key: Callable[[Point], object], value: Callable[[Point], float],
) -> None:  # fmt: skip
    groups: dict[object, list[Point]] = defaultdict(list)
    for point in points:
        groups[key(point)].append(point)
    measured, predicted = [], []
    for group in groups.values():
        ends = sorted(group, key=value)[:: max(1, len(group) - 1)]
        if len(ends) == 2:
            first, last = predict(profile, ends)
            measured.append(ends[1].value / ends[0].value)
            predicted.append(last.latency_ms / first.latency_ms)
    table.add_row(
        axis, str(len(measured)), f"{np.median(measured):.2f} (median)",
        f"{np.median(predicted):.2f} (median)",
    )  # fmt: skip


def pricing_seconds(count: int = 100_000) -> float:
    """Time the pricing of random variants of YOLOv5n with bits and channels of their own."""
    rng = np.random.default_rng(0)
    batch = WorkloadBatch.of(measured_network("yolov5_d33w25", 640, 640))
    shape = (count, len(batch.convs.names))
    bits = rng.choice([8, 16], shape)
    convs = replace(
        batch.convs,
        in_channels=8 * rng.integers(1, 33, shape),
        out_channels=8 * rng.integers(1, 33, shape),
        weight_bits=bits,
        act_bits=bits,
    )
    model = CostModel(load_profile("jetson-xavier-nx"))
    start = time.perf_counter()
    model.predict_batch(replace(batch, convs=convs))
    return time.perf_counter() - start


def _load(device: str, metric: str) -> tuple[DeviceProfile, list[Point]]:
    points = read_points(MEASUREMENTS / f"{device}.csv")
    return load_profile(device), [point for point in points if point.metric == metric]


def main() -> None:
    """Print all tables."""
    measured = [name for name in shipped_profiles() if (MEASUREMENTS / f"{name}.csv").is_file()]
    console = Console(width=170)
    for table in (
        latency_table(measured), coverage_table(measured), energy_table(measured),
        left_out_table(measured), scaling_table(),
    ):  # fmt: skip
        console.print(table)
    console.print(f"100,000 variants of YOLOv5n priced in {pricing_seconds():.2f} s")


if __name__ == "__main__":
    main()

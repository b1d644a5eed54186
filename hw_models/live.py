"""Calibrate a profile on a live device worker: what is measured, and the plan that is fitted to it.

The design is small parts of YOLOv5 across kernels, channels, sizes and precisions, and whole
YOLOv5u of several widths and input sizes with channels removed at random and all, some or none of
their convolutions quantised (`hw_models.probes`). Some whole networks are measured but never
fitted: their error is what the profile says of itself.

The profile is of the device undisturbed. A neighbour on the same processor comes and goes, and
slows INT8 more than FP32 down: no average of what it leaves is a property of the device. So all is
measured in passes, minutes apart, until one is like the one before, and the fastest time counts.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hw_models.calibration import calibrate
from hw_models.client import Credentials, DeviceClient
from hw_models.errors import InputError
from hw_models.measurement import (
    DeviceCallError,
    DeviceInfo,
    Measurement,
    MeasureProtocol,
    Retry,
)
from hw_models.member import Health, Rules
from hw_models.points import LATENCY, POINT_COLUMNS, Point
from hw_models.pool import DevicePool
from hw_models.probes import probe

NAME = "host-cpu"
PARTS, NETWORKS = "parts", "networks"
"""Origins of the rows: small parts and whole networks."""
PROTOCOL = MeasureProtocol(warm_up=3, number=1, repeat=15, min_time_s=0.25, idle_s=0.0)
UNDISTURBED = 0.1
"""Quantile of the samples that is taken."""
ALIKE = 0.03
"""Relative difference of two measurements of an undisturbed device."""
CALM = 0.95
"""Share of the rows that must be alike in two passes running."""
PASSES = 8
"""At most. What is disturbed two times out of three is undisturbed in one of them, with 96 %."""
CHANNEL_STEPS = (4, 8, 16, 32)
"""Channels that a vector of a CPU may hold; what fits best is taken."""
_CLOCK = 1000.0
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Trial:
    """One network to measure.

    Args:
        network: A name of `hw_models.probes`.
        rows: Rows and columns of its input.
        role: `calibrate`, or `validate`: never fitted.
        precisions: In which it is measured.
    """

    network: str
    rows: int
    role: str = "calibrate"
    precisions: tuple[str, ...] = ("fp32", "int8")

    @property
    def origin(self) -> str:
        """Whether it is a part or a whole network."""
        return NETWORKS if self.network.startswith("yolov5u") else PARTS


Run = tuple[Trial, str]
"""A network in one precision."""


def _parts() -> Iterator[Trial]:
    for first, second, rows in (
        (16, 16, 160), (32, 16, 80), (32, 32, 80), (64, 32, 40), (64, 64, 40), (96, 48, 40),
        (128, 64, 20), (128, 128, 20), (256, 128, 10), (256, 256, 10), (512, 256, 10), (24, 24, 80),
        (40, 72, 40), (128, 128, 40), (8, 8, 80),
    ):  # fmt: skip
        yield Trial(f"conv1-{first}-{second}", rows)
    for first, second, rows in (
        (16, 16, 80), (32, 32, 40), (64, 64, 20), (128, 128, 10), (64, 64, 40), (80, 80, 40),
        (24, 24, 40), (48, 48, 20), (8, 8, 80), (64, 16, 20), (128, 64, 20), (32, 32, 80),
    ):  # fmt: skip
        yield Trial(f"conv3-{first}-{second}", rows)
    yield from (Trial(f"stem-{channels}", rows) for channels, rows in ((16, 320), (32, 224)))
    yield from (
        Trial(f"down-{channels}", rows) for channels, rows in ((16, 160), (32, 80), (24, 80))
    )
    yield from (Trial(f"pools-{channels}", rows) for channels, rows in ((256, 10), (256, 20)))
    yield from (Trial(f"join-{channels}", rows) for channels, rows in ((128, 10), (64, 20)))


def _networks() -> Iterator[Trial]:
    every, quantized = ("fp32", "int8"), ("int8",)
    for name, rows, role, precisions in (
        ("w25-d33-c80-s0-q100", 320, "calibrate", every),
        ("w25-d33-c80-s0-q100", 640, "calibrate", every),
        ("w25-d33-c8-s0-q100", 224, "calibrate", every),
        ("w50-d33-c80-s0-q100", 320, "calibrate", every),
        ("w25-d33-c80-s1-q100", 320, "calibrate", every),
        ("w25-d33-c80-s2-q50", 320, "calibrate", every),
        ("w25-d33-c20-s3-q75", 416, "calibrate", every),
        ("w25-d33-c80-s4-q50", 480, "calibrate", every),
        ("w25-d33-c80-s5-q25", 256, "calibrate", every),
        ("w50-d33-c80-s6-q50", 320, "calibrate", every),
        ("w25-d33-c80-s7-q75", 320, "calibrate", every),
        ("w25-d33-c80-s8-q100", 160, "calibrate", every),
        ("w25-d33-c80-s0-q50", 320, "calibrate", quantized),
        ("w25-d33-c80-s0-q50", 416, "calibrate", quantized),
        ("w25-d33-c80-s0-q100", 416, "validate", every),
        ("w37-d33-c80-s0-q100", 320, "validate", every),
        ("w25-d33-c80-s11-q100", 320, "validate", every),
        ("w25-d33-c80-s12-q50", 320, "validate", every),
        ("w25-d33-c80-s13-q75", 640, "validate", every),
        ("w25-d33-c3-s14-q25", 256, "validate", every),
        ("w50-d33-c80-s15-q75", 384, "validate", every),
        ("w25-d33-c80-s16-q50", 512, "validate", every),
    ):
        yield Trial(f"yolov5u-{name}", rows, role, precisions)


DESIGN: tuple[Trial, ...] = (*_parts(), *_networks())


RULES = Rules(acquire_s=150.0, drift=1.0, noise=1.0)
"""One device and somebody who waits for it: a busy machine is told of after minutes. What is
disturbed shows between passes; the golden model shows only what is ill."""
FAILURES = 3
"""Measurements in a row that may fail; each is tried once more, in the next pass."""
LONGEST_S = 14 * 60.0
"""For a design: a quarter of an hour is promised, fitting included."""


@contextmanager
def connected(address: str, credentials: Credentials) -> Iterator[tuple[DevicePool, DeviceInfo]]:
    """Give a pool of one device, and what it is.

    Raises:
        InputError: If it is not a CPU.
        DeviceCallError: If it does not answer.
    """
    pool = DevicePool([DeviceClient(address, credentials)], RULES)
    try:
        (status,) = pool.status()
        if status.info is None or status.health is not Health.GOOD:
            raise DeviceCallError(
                f"{address} cannot be measured on: {status.trouble}",
                "`paretrim devices` shows how it is.",
                Retry.NEVER,
            )
        yield pool, status.info
    finally:
        pool.close()


def measurable(info: DeviceInfo) -> tuple[str, ...]:
    """Return the precisions that the design can be measured in.

    Raises:
        InputError: If the device is not a CPU, whose INT8 form the design has.
    """
    if info.processor != "cpu":
        raise InputError(
            f"{info.address}: expected a worker whose runtime is on a CPU, got {info.runtime} on "
            f"{info.processor} ({info.board}).",
            "Jetson boards have profiles of their own; fit rows of your own with --from.",
        )
    return tuple(name for name in ("fp32", "int8") if name in info.precisions)


def run_design(
    pool: DevicePool,
    design: Sequence[Trial],
    precisions: Sequence[str],
    progress: Callable[[int, int, str], None],
    points: dict[Run, Point],
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Measure a design in passes, until two running are alike or there are enough.

    Args:
        pool: With one kind of devices.
        design: What to measure.
        precisions: That the device executes.
        progress: Told (done, total of this pass, what is measured next).
        points: Every row is added here as it is measured, so that a failure leaves what there is.
        clock: Seconds that never run backwards.

    Returns:
        How many rows have two fastest measurements that are not alike: disturbed to the end.

    Raises:
        DeviceCallError: If the device has trouble several times in a row, or with one network
            twice, or takes longer than `LONGEST_S` for the first pass.
    """
    runs = runs_of(design, precisions)
    times_ms: dict[Run, list[float]] = {run: [] for run in runs}
    deadline_s = clock() + LONGEST_S
    in_a_row = 0
    failed: set[Run] = set()
    for number in range(1, PASSES + 1):
        for done, run in enumerate(runs):
            if clock() >= deadline_s:
                break
            trial, precision = run
            what = f"pass {number}: {trial.network} {trial.rows} px {precision}"
            progress(done, len(runs), what)
            try:
                measured = _measure(pool, trial, precision)
            except DeviceCallError:
                in_a_row += 1
                if in_a_row >= FAILURES or run in failed:
                    raise
                failed.add(run)
            else:
                in_a_row = 0
                times_ms[run].append(measured.quantile_ms(UNDISTURBED))
                points[run] = _point(trial, precision, measured, min(times_ms[run]))
        calm = sum(_alike(times[-2:]) for times in times_ms.values())
        if clock() >= deadline_s or calm >= CALM * len(runs):
            break
    if len(points) < len(runs):
        raise DeviceCallError(
            f"expected {len(runs)} measurements within {LONGEST_S / 60:.0f} minutes, got "
            f"{len(points)}: the device is too busy or too slow.",
            "Close other programs there and fix its clocks, then start anew.",
            Retry.NEVER,
        )
    return sum(not _alike(sorted(times)[:2]) for times in times_ms.values())


def _alike(two_ms: Sequence[float]) -> bool:
    return len(two_ms) == 2 and max(two_ms) <= (1 + ALIKE) * min(two_ms)


def runs_of(design: Sequence[Trial], precisions: Sequence[str]) -> list[Run]:
    """Return what of a design a device can measure, in order."""
    return [(trial, name) for trial in design for name in trial.precisions if name in precisions]


def _measure(pool: DevicePool, trial: Trial, precision: str) -> Measurement:
    made = probe(trial.network, trial.rows, int8=precision == "int8")
    assert made is not None, trial.network
    return pool.measure(made.onnx(), replace(PROTOCOL, precision=precision))


def _point(trial: Trial, precision: str, measured: Measurement, latency_ms: float) -> Point:
    return Point(
        trial.origin, trial.network, trial.rows, trial.rows, 1, measured.power_mode.upper(),
        precision, LATENCY, float(f"{latency_ms:.{_DIGITS}g}"), trial.role,  # as in the table
    )  # fmt: skip


def write_points(path: Path, points: Sequence[Point], source: str) -> None:
    """Write measured rows as a table that `paretrim calibrate --from` reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, POINT_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for point in points:
            value = f"{point.value:.{_DIGITS}g}"
            writer.writerow(asdict(point) | {"value": value, "source": source, "note": ""})


def host_facts(info: DeviceInfo, precisions: Sequence[str], channel_step: int) -> dict[str, Any]:
    """Return facts and plan of a profile of a CPU: what calibration keeps.

    Args:
        info: The device.
        precisions: That were measured.
        channel_step: Channels are padded to multiples of this.
    """
    mode = info.power_mode.upper()
    plans = {32: _plan(channel_step, 50.0, 10.0)}
    if "int8" in precisions:
        plans[8] = _plan(channel_step, 120.0, 3.0)
    clocks = {"gpu_mhz": _CLOCK, "emc_mhz": _CLOCK, "cpu_mhz": _CLOCK, "idle_w": float("nan")}
    return {
        "name": NAME,
        "description": (
            f"{info.board} under {info.runtime} {info.runtime_version}, {info.threads} threads, "
            "measured by paretrim calibrate. INT8 is that of uint8 activations. It has one power "
            "mode; the clocks are placeholders. Energy was not measured."
        ),
        "sources": [f"measured on {info.kind}"],
        "board": {"name": info.board, "kind": info.kind},
        "default_power_mode": mode,
        "reference_mode": mode,
        "power_modes": {mode: clocks},
        "baseline_bits": 32,
        "granule": channel_step,
        "patterns": {
            "dense": "executed", "unstructured": "stored only", "2ep": "stored only",
            "3ep": "stored only", "2:4": "stored only",
        },
        "pattern_gains": {},
        "plugins": [],
        "plan": {
            "latency": plans,
            "traffic": {name: [1.0, 1.0] for name in ("activation", "concat", "pool", "resize",
                                                      "add", "decode", "convert")},
            "fixed_origin": NETWORKS,
            "interval_origin": NETWORKS,
            "folds": 5,
            "report_validate": True,
        },
    }  # fmt: skip


def _plan(channel_step: int, gmacs: float, bandwidth_gbs: float) -> dict[str, Any]:
    """Return the wide prior of one precision on a CPU core."""
    return {
        "prior": {
            "launch_us": 5.0, "op_launch_us": 3.0, "depth_ns": 0.0, "dense_gmacs": gmacs,
            "winograd_gain": 1.0, "pointwise_gmacs": gmacs, "matrix_gmacs": gmacs,
            "depthwise_gmacs": gmacs / 10, "tile_channels": 8.0, "bandwidth_gbs": bandwidth_gbs,
            "channel_step": channel_step, "pixel_step": 1, "map_step": 1,
        },
        "pinned": ["depth_ns", "matrix_gmacs", "depthwise_gmacs"],
        "tightness": 3,
    }  # fmt: skip


def fit_host(
    info: DeviceInfo, points: Sequence[Point], precisions: Sequence[str]
) -> dict[str, Any]:
    """Fit a profile of a CPU to measured rows; the channel step that fits best is taken.

    Raises:
        InputError: If there is nothing to fit.
    """
    from hw_models.latency_fit import LatencyFit

    rows = [point for point in points if point.role == "calibrate"]
    if not rows:
        raise InputError("The design has no row of role `calibrate`.")

    def cost(step: int) -> float:
        return LatencyFit.planned(host_facts(info, precisions, step), rows).cost()

    best = min(CHANNEL_STEPS, key=cost)
    return calibrate(host_facts(info, precisions, best), points)

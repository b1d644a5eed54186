"""Draw the figures of docs/hardware-models.md: `python -m benchmarks.hw_model_figures`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt  # after the backend is chosen
from matplotlib.ticker import NullFormatter

from benchmarks.hw_models import BEYOND_ENGINE, predict
from hw_models.cost import CostModel
from hw_models.device import DEVICES as DEVICE_FILES
from hw_models.device import load_profile, read_profile_yaml
from hw_models.networks import MEASUREMENTS, at_precision, measured_network
from hw_models.points import LATENCY, Point, read_points
from hw_models.workload import ConvShape, OtherOp

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
DEVICES = ("jetson-tx2", "jetson-xavier-nx", "jetson-agx-xavier", "jetson-nano-yolobench")
COLOURS = {"fp32": "tab:blue", "fp16": "tab:orange", "int8": "tab:green"}


def _rows(device: str) -> list[tuple[Point, float]]:
    profile = load_profile(device)
    excluded = read_profile_yaml(DEVICE_FILES / f"{device}.yaml")["plan"].get("exclude", ())
    points = [
        point
        for point in read_points(MEASUREMENTS / f"{device}.csv")
        if point.metric == LATENCY
        and point.origin not in BEYOND_ENGINE
        and point.network not in excluded
    ]
    costs = predict(profile, points)
    return [(point, cost.latency_ms) for point, cost in zip(points, costs, strict=True)]


def predicted_against_measured(rows: dict[str, list[tuple[Point, float]]]) -> None:
    """Draw one panel a device; hollow marks were fitted."""
    figure, axes = plt.subplots(1, len(rows), figsize=(4 * len(rows), 4))
    for axis, (device, pairs) in zip(axes, rows.items(), strict=True):
        for precision, colour in COLOURS.items():
            for role, face in (("calibrate", "none"), ("validate", colour)):
                chosen = [
                    (p.value, v) for p, v in pairs if p.precision == precision and p.role == role
                ]
                if chosen:
                    label = f"{precision} {'fitted' if role == 'calibrate' else 'validate'}"
                    axis.scatter(*zip(*chosen, strict=True), s=18, edgecolors=colour,
                                 facecolors=face, linewidths=0.7, label=label)  # fmt: skip
        limits = np.asarray([min(p.value for p, _ in pairs), max(p.value for p, _ in pairs)])
        axis.plot(limits, limits, "k-", linewidth=0.8)
        axis.fill_between(limits, limits * 0.9, limits * 1.1, color="k", alpha=0.1)
        axis.set(xscale="log", yscale="log", title=device, xlabel="measured ms")
        for direction in (axis.xaxis, axis.yaxis):
            direction.set_minor_formatter(NullFormatter())
        axis.legend(fontsize=7)
    axes[0].set_ylabel("predicted ms")
    _save(figure, "predicted-measured.png")


def residuals(rows: dict[str, list[tuple[Point, float]]]) -> None:
    """Draw the distribution of errors on `validate` rows."""
    figure, axes = plt.subplots(1, len(rows), figsize=(4 * len(rows), 3), sharex=True)
    bins = np.linspace(-60, 60, 25)
    for axis, (device, pairs) in zip(axes, rows.items(), strict=True):
        for precision, colour in COLOURS.items():
            errors = [
                100 * (value / point.value - 1)
                for point, value in pairs
                if point.role == "validate" and point.precision == precision
            ]
            if errors:
                axis.hist(np.clip(errors, -60, 60), bins, color=colour, alpha=0.6, label=precision)
        axis.set(title=device, xlabel="predicted / measured - 1, %")
        axis.legend(fontsize=7)
    axes[0].set_ylabel("validate rows")
    _save(figure, "residuals.png")


def gains_by_layer_kind() -> None:
    """Draw what FP16 gains over FP32, and INT8 over FP16, for the kinds of layers of YOLOv5n."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), sharey=True)
    for axis, device in zip(axes, DEVICES[:3], strict=True):
        model = CostModel(load_profile(device))
        times: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        base = measured_network("yolov5_d33w25", 640, 640)
        for bits in (32, 16, 8):
            workload = at_precision(base, bits)
            for layer, cost in zip(workload.layers, model.predict(workload).per_layer, strict=True):
                times[_kind(layer)][bits] += cost.latency_ms
        kinds = list(times)
        places = np.arange(len(kinds))
        for shift, (wide, narrow) in ((-0.2, (32, 16)), (0.2, (16, 8))):
            gains = [times[kind][wide] / times[kind][narrow] for kind in kinds]
            axis.bar(places + shift, gains, 0.4, label=f"{wide} to {narrow} bits")
        axis.axhline(1, color="k", linewidth=0.8)
        axis.set_xticks(places, kinds, rotation=35, ha="right", fontsize=8)
        axis.set_title(device)
    axes[0].set_ylabel("speed-up (predicted)")
    axes[0].legend(fontsize=7)
    _save(figure, "precision-gain.png")


def _kind(layer: ConvShape | OtherOp) -> str:
    if isinstance(layer, OtherOp):
        return layer.kind
    size = f"{layer.kernel[0]}x{layer.kernel[1]}"
    return f"conv {size}" + (f" / {layer.stride[0]}" if layer.stride[0] > 1 else "")


def _save(figure: plt.Figure, name: str) -> None:
    figure.tight_layout()
    figure.savefig(FIGURES / name, dpi=80, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    FIGURES.mkdir(parents=True, exist_ok=True)
    measured = {device: _rows(device) for device in DEVICES}
    predicted_against_measured(measured)
    residuals(measured)
    gains_by_layer_kind()

"""Copy the figures a hardware model can use from public collections, with their sources.

    python -m benchmarks.collect_measurements ../shared

writes hw_models/measurements/DEVICE.csv, one figure a row, the network named as in networks.csv.
Roles are kept: `calibrate` rows are fitted, `validate` rows only ever reported. Throughputs become
the latency of one batch. Rows of networks that could not be rebuilt, of other frameworks and of
single users are left out.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from hw_models.networks import MEASUREMENTS
from hw_models.points import POINT_COLUMNS

_DEVICES = {
    "Jetson TX2": "jetson-tx2",
    "Jetson Xavier NX": "jetson-xavier-nx",
    "Jetson Xavier NX 8GB": "jetson-xavier-nx",
    "Jetson AGX Xavier": "jetson-agx-xavier",
    "Jetson AGX Xavier 32GB": "jetson-agx-xavier",
    "Jetson Nano": "jetson-nano",
    "Jetson Orin Nano 8GB": "jetson-orin-nano",
    "Jetson Orin NX 16GB": "jetson-orin-nx",
    "Jetson AGX Orin 32GB": "jetson-agx-orin-32gb",
    "Jetson AGX Orin 64GB": "jetson-agx-orin-64gb",
}
_ORIGINS = {
    "TensorRT (QuTiBench)": "qutibench",
    "TensorRT 3.0 (JetPack 3.2)": "tf-to-trt",
    "TF-TRT (JetPack 3.2)": "tf-trt-session",
    "TensorRT via torch2trt": "torch2trt",
    "TensorRT (JetPack 4.2.1)": "jetson-inference",
    "TensorRT 7.1.3 (JetPack 4.5.1)": "hax-conn",
    "TensorRT (trt_pose)": "trt-pose",
    "TensorRT python end-to-end": "python-end-to-end",
}
_PREFIXES = {
    "TensorRT engine execution (trtutils": "trtutils",
    "TensorRT, MLPerf": "mlperf",
    "tkDNN": "tkdnn",
}
_NETWORKS = {
    "ResNet-50 v1.5": "resnet50", "SSD-MobileNet-v1": "ssd_mobilenet_v1",
    "MobileNet-v1": "mobilenet_v1_1p0_224", "GoogLeNetv1": "googlenet", "GoogLeNet": "googlenet",
    "ssd_mobilenet_v1_coco": "ssd_mobilenet_v1",
    "yolov7t": "yolov7_tiny", "yolov7m": "yolov7",
    "yoloxn": "yolox_nano", "yoloxt": "yolox_tiny", "yoloxs": "yolox_s", "yoloxm": "yolox_m",
    "yolov3-spp": "yolov3_spp", "yolov3-tiny": "yolov3_tiny", "yolov4-tiny": "yolov4_tiny",
    "yolov4-csp": "yolov4_csp", "yolov4x-mish": "yolov4x_mish",
    "resnet18_baseline_att": "pose_resnet18", "densenet121_baseline_att": "pose_densenet121",
}  # fmt: skip
_METRICS = {
    "latency_mean": "latency_ms", "latency_compute": "latency_ms", "throughput": "latency_ms",
    "latency_system": "host_latency_ms", "power_full": "power_w", "power_wall_avg": "power_w",
    "energy_per_inference": "energy_mj", "energy_wall_per_inference": "energy_mj",
}  # fmt: skip
_SSD_RESNET34: tuple[tuple[str, str, str, str, float, float | None], ...] = (
    # MLPerf inference: round, device, system, power mode, mean latency in ms, wall power in W
    ("v0.7", "jetson-agx-xavier", "AGX_Xavier_TRT", "MAXN", 28.394994, None),
    ("v1.0", "jetson-agx-xavier", "AGX_Xavier_TRT", "MAXN", 25.865153, None),
    ("v1.1", "jetson-agx-xavier", "AGX_Xavier_TRT", "MAXN", 25.850855, None),
    ("v1.0", "jetson-agx-xavier", "AGX_Xavier_TRT_MaxQ", "675.75@1600", 50.630808, 17.62),
    ("v1.1", "jetson-agx-xavier", "AGX_Xavier_TRT_MaxQ", "1032.75@1600", 33.736203, 23.18),
    ("v0.7", "jetson-xavier-nx", "Xavier_NX_TRT", "15W", 46.772874, None),
    ("v1.0", "jetson-xavier-nx", "Xavier_NX_TRT", "15W", 42.842929, None),
    ("v1.1", "jetson-xavier-nx", "Xavier_NX_TRT", "20W", 41.945601, None),
    ("v2.0", "jetson-xavier-nx", "Xavier_NX_TRT", "20W", 42.356729, None),
    ("v1.0", "jetson-xavier-nx", "Xavier_NX_TRT_MaxQ", "854.25@1600", 53.637919, 14.42),
    ("v1.1", "jetson-xavier-nx", "Xavier_NX_TRT_MaxQ", "854.25@1331.2", 53.680318, 13.91),
    ("v2.0", "jetson-xavier-nx", "Xavier_NX_TRT_MaxQ", "854.25@1331.2", 53.684989, 13.84),
)
_ROLES = {"calibrate": "calibrate", "validate": "validate", "extra": "calibrate"}


def _origin(framework: str) -> str | None:
    for prefix, origin in _PREFIXES.items():
        if framework.startswith(prefix) and "Triton" not in framework:
            return origin
    return _ORIGINS.get(framework)


def _network(model: str, known: set[str]) -> str | None:
    if found := re.fullmatch(r"(CNV|MLP)(?:@width([\d.]+)%)?", model):
        return f"{found[1].lower()}_{found[2] or 100}"
    if model.startswith("fcn-resnet18"):
        return "fcn_resnet18"
    name = _NETWORKS.get(model, model.removesuffix("_bn"))
    return name if name in known else None


def _mode(device: str, origin: str, text: str) -> str:
    """Return the power mode of the profile, or clocks as GPU@MEMORY where the row states them."""
    if found := re.search(r"gpu<?=([\d.]+) emc<?=([\d.]+)", text):
        return f"{found[1]}@{found[2]}"
    if origin == "tf-to-trt":
        return "MAXP"  # nvpmodel 3, MAXP_CORE_ARM: the GPU and memory clocks of MAXP
    for mode in ("MAXP", "MAXQ", "MODE_15W", "MODE_20W"):
        if mode in text:
            return mode.removeprefix("MODE_")
    return {"jetson-xavier-nx": "15W", "jetson-orin-nano": "15W", "jetson-orin-nx": "25W"}.get(
        device, "MAXN"
    )


def _points(path: Path, known: set[str]) -> Iterator[tuple[str, dict[str, str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            device, origin = _DEVICES.get(row["device"]), _origin(row["framework"])
            network, metric = _network(row["model"], known), _METRICS.get(row["metric"])
            precision = row["precision"].split()[0] if row["precision"] else ""
            usable = device and origin and network and metric and row["role"] in _ROLES
            if not usable or precision not in {"FP32", "FP16", "INT8"}:
                continue
            assert device is not None
            assert origin is not None
            if not row["batch"].isdigit() or (origin == "mlperf" and row["metric"] == "throughput"):
                continue
            if row["metric"] == "throughput" and origin == "torch2trt":
                continue  # pipelined calls: not the latency, which has a row of its own
            value, note = float(row["value"]), row["note"]
            if row["metric"] == "throughput":
                value, note = 1000 * int(row["batch"]) / value, "1000 x batch / throughput"
            yield device, {
                "origin": origin, "network": str(network), "input_h": row["input_h"],
                "input_w": row["input_w"], "batch": row["batch"],
                "power_mode": _mode(device, origin, row["power_mode"]),
                "precision": precision.lower(), "metric": str(metric), "value": f"{value:.6g}",
                "role": _ROLES[row["role"]], "source": row["source"], "note": note,
            }  # fmt: skip


def _yolobench(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the Jetson Nano latencies: the first 50 by name to fit, the last 20 to report."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["model_name"])
    letters = {"n": "d33w25", "s": "d33w5", "m": "d67w75", "l": "d1w1"}
    for index, row in enumerate(rows):
        variant, size = row["model_name"].removeprefix("yolo5").split("_")
        yield "jetson-nano-yolobench", {
            "origin": "yolobench", "network": f"yolov5_{letters.get(variant, variant)}",
            "input_h": size, "input_w": size, "batch": "1", "power_mode": "MAXN",
            "precision": "fp32", "metric": "latency_ms",
            "value": f"{float(row['nano_gpu_latency']):.6g}",
            "role": "calibrate" if index < 50 else "validate",
            "source": "Deeplite/deeplite-torch-zoo:results/yolobench/merged_results.csv",
            "note": "runtime and precision not stated; taken as fp32",
        }  # fmt: skip


def _ssd_resnet34() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield SSD-ResNet34 in INT8 on the Xaviers, read from the submissions themselves.

    Latencies are the means of mlperf_log_summary.txt. Power is read off thirty or more samples of
    spl.txt (1 Hz) in the timed run, which differ by less than 1 % but for a few seconds; the whole
    run was not averaged. Clocks are those of configs/ssd-resnet34/SingleStream (v1.0: of
    power/nvpmodel-*.conf).
    """
    for edition, device, system, mode, latency_ms, wall_w in _SSD_RESNET34:
        figures = {"latency_ms": (latency_ms, "SingleStream; GPU only")}
        if wall_w is not None:
            note = "SingleStream; GPU only; whole-system AC wall power"
            derived = "SingleStream; GPU only; DERIVED wall power x latency"
            figures["power_w"] = wall_w, note
            figures["energy_mj"] = wall_w * latency_ms, derived
        for metric, (value, note) in figures.items():
            yield device, {
                "origin": "mlperf", "network": "ssd_resnet34", "input_h": "1200",
                "input_w": "1200", "batch": "1", "power_mode": mode, "precision": "int8",
                "metric": metric, "value": f"{value:.6g}", "role": "calibrate",
                "source": f"mlcommons/inference_results_{edition}:closed/NVIDIA/results/{system}"
                "/ssd-resnet34/SingleStream",
                "note": note,
            }  # fmt: skip


def main(shared: Path) -> None:
    """Write one table a device."""
    with (MEASUREMENTS / "networks.csv").open(newline="", encoding="utf-8") as file:
        known = {row["network"] for row in csv.DictReader(file)}
    tables: dict[str, list[dict[str, str]]] = {}
    for device, point in [
        *_points(shared / "jetson" / "measurements.csv", known),
        *_yolobench(shared / "yolobench" / "yolov5.csv"),
        *_ssd_resnet34(),
    ]:
        tables.setdefault(device, []).append(point)
    for device, points in tables.items():
        with (MEASUREMENTS / f"{device}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, POINT_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(points)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The quick ways to a faster YOLOv5 on a CPU, and paretrim's front beside them.

    python -m benchmarks.host_cpu [--run RUN ...] [--shared ../shared] [--imgsz 320 640]
                                  [--images N] [--rounds N]

yolov5nu, one thread: ONNX Runtime in FP32, its static quantisation of all ops, of all but the
decoding of boxes and of convolutions only (uint8 activations, int8 weights of each channel, the
calibrator's defaults), OpenVINO in FP32 and quantised by NNCF without the decoding
(`pip install .[benchmarks]`; OpenVINO misreads NNCF's ONNX files, so this one is in its own format
and timed here, not by a worker), and the front of finished runs (`--run`: their folders; what
was exported counts, which are the picks and what was measured with `--measure-on`, of the same
input size or a smaller one).
Live workers on loopback time all files in turns. A speed-up is the time of ONNX Runtime's FP32 over
the file's own: of the fastest turn of each, which nothing disturbed, and beside it ("in turns") the
median of what it was in each turn. mAP50-95 is that of the file in its own runtime, on the data
set's validation images.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "1")

import numpy as np
import numpy.typing as npt
import onnx
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.device_worker import running
from evaluators.dataset import Dataset, load_dataset
from evaluators.dense import as_input
from evaluators.detection import detect, score_detections
from hw_models.client import DeviceClient
from hw_models.measurement import MeasureProtocol, precision_of
from hw_models.pool import DevicePool
from search.measure import RULES
from search.run_folder import RunFolder
from spaces.export import export_onnx
from spaces.model import load_detector
from spaces.onnx_detector import OnnxDetector

CALIBRATION_IMAGES = 64
PROTOCOL = MeasureProtocol(warm_up=3, repeat=15, min_time_s=0.25, idle_s=0.0)
RUNTIMES = ("onnxruntime", "openvino")
FP32 = "ONNX Runtime FP32"

Images = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Way:
    """One file to compare."""

    name: str
    path: Path
    imgsz: int
    runtime: str = "onnxruntime"


class Reader:
    """Hands calibration images to onnxruntime's quantiser, one after the other."""

    def __init__(self, images: Images) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Images] | None:
        """Return the next image, None at the end."""
        image = next(self._images, None)
        return None if image is None else {"images": image[None]}


def quick_ways(weights: Path, imgsz: int, images: Images, folder: Path) -> Iterator[Way]:
    """Yield what a user can have in minutes."""
    detector = load_detector(str(weights))
    dense = folder / f"fp32-{imgsz}.onnx"
    names = [n for n, m in detector.net.named_modules() if isinstance(m, torch.nn.Conv2d)]
    full = {name: (32, 32) for name in names if "dfl" not in name}
    export_onnx(detector, imgsz, dense, full)
    yield Way(FP32, dense, imgsz)
    decoding = decoding_nodes(onnx.load(dense))
    for name, ops, left_out in (
        ("all ops", None, []),
        ("all but decoding", None, decoding),
        ("convolutions", ["Conv"], []),
    ):
        path = folder / f"ort-{name.replace(' ', '-')}-{imgsz}.onnx"
        _quantize_static(dense, path, images, ops, left_out)
        yield Way(f"ONNX Runtime static INT8, {name}", path, imgsz)
    yield Way("OpenVINO FP32", dense, imgsz, "openvino")
    if importlib.util.find_spec("nncf") is not None:
        path = folder / f"nncf-{imgsz}.xml"
        _quantize_nncf(dense, path, images, decoding)
        yield Way("OpenVINO INT8 by NNCF, mixed", path, imgsz, "openvino")


def decoding_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that no convolution comes after: they make boxes of maps."""
    wanted: set[str] = set()
    names = []
    for node in reversed(model.graph.node):
        if node.op_type == "Conv" or wanted & set(node.output):
            wanted |= set(node.input)
        else:
            names.append(node.name)
    return names


def _quantize_static(
    source: Path, path: Path, images: Images, ops: list[str] | None, left_out: list[str]
) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        source, path, Reader(images), quant_format=QuantFormat.QDQ, per_channel=True,
        reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=ops, nodes_to_exclude=left_out,
    )  # fmt: skip
    _copy_metadata(source, path)


def _quantize_nncf(source: Path, path: Path, images: Images, left_out: list[str]) -> None:
    import nncf
    import openvino

    model = openvino.convert_model(source)
    ops = {op.get_friendly_name() for op in model.get_ops()} & set(left_out)
    quantized = nncf.quantize(
        model, nncf.Dataset([image[None] for image in images]),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=sorted(ops), validate=False),
    )  # fmt: skip
    openvino.save_model(quantized, path)


def _copy_metadata(source: Path, path: Path) -> None:
    """Note names and input size, which quantisers may drop."""
    model = onnx.load(path)
    props = {entry.key: entry.value for entry in onnx.load(source).metadata_props}
    onnx.helper.set_model_props(model, props)
    onnx.save(model, path)


def of_run(run: Path, imgsz: int) -> Iterator[Way]:
    """Yield the points of a finished run's front that have a file, up to an input size."""
    folder = RunFolder(run)
    with folder.front.open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["imgsz"]) <= imgsz]
    for row in rows:
        files = (run / f"models/{row['id']}/model.onnx", folder.measured / f"{row['digest']}.onnx")
        path = next((path for path in files if path.is_file()), None)
        if path is not None and row["id"] != "dense":
            meets = f", meets {row['meets']}" if row["meets"] else ""
            name = f"paretrim {run.name} {row['id']}, {row['imgsz']} px{meets}"
            yield Way(name, path, int(row["imgsz"]))


def turns(ways: Sequence[Way], rounds: int) -> list[list[float]]:
    """Time all files in turns, on live workers but for OpenVINO's own format.

    Returns:
        [R][W] latency of each file in each turn, milliseconds.
    """
    with ExitStack() as stack:
        clocks: list[Callable[[], float]] = []
        pools = {}
        for runtime in dict.fromkeys(way.runtime for way in ways):
            worker = stack.enter_context(running(["--insecure"], runtime))
            pool = DevicePool([DeviceClient(worker.address)], RULES)
            stack.callback(pool.close)
            pools[runtime] = pool
        for way in ways:
            if way.path.suffix == ".xml":
                clocks.append(partial(_timed_here, _openvino(way.path), way.imgsz))
                continue
            data = way.path.read_bytes()
            protocol = replace(PROTOCOL, precision=precision_of(data))
            clocks.append(partial(_timed_by, pools[way.runtime], data, protocol))
        return [[clock() for clock in clocks] for _ in range(rounds)]


def _timed_by(pool: DevicePool, model: bytes, protocol: MeasureProtocol) -> float:
    return pool.measure(model, protocol).latency_ms


def _timed_here(forward: Callable[[Images], Any], imgsz: int) -> float:
    """Time a network as a worker does."""
    image = np.random.default_rng(0).random((1, 3, imgsz, imgsz), np.float32)
    for _ in range(PROTOCOL.warm_up):
        forward(image)
    samples_ms: list[float] = []
    while len(samples_ms) < PROTOCOL.repeat or sum(samples_ms) < 1e3 * PROTOCOL.min_time_s:
        start = time.perf_counter()
        forward(image)
        samples_ms.append(1e3 * (time.perf_counter() - start))
    return statistics.median(samples_ms)


def map50_95(way: Way, data: Dataset) -> float:
    """Score a file in its own runtime."""
    forward = _openvino(way.path) if way.runtime == "openvino" else OnnxDetector(way.path)
    detections = []
    for index in range(len(data)):
        square = data.squares(way.imgsz, slice(index, index + 1))
        image = as_input(square).contiguous().numpy()
        detections += detect(torch.from_numpy(np.asarray(forward(image))))
    score = score_detections(detections, data, way.imgsz)
    return score.map50_95


def _openvino(path: Path) -> Callable[[Images], Any]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": "1", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda image: compiled(image)[0]


def compare(
    options: argparse.Namespace, imgsz: int, calibration: Dataset, data: Dataset, folder: Path
) -> Table:
    """Return the table of one input size."""
    images = as_input(calibration.squares(imgsz)).contiguous().numpy()
    weights = options.shared / "weights/yolov5nu.pt"
    ways = [*quick_ways(weights, imgsz, images, folder)]
    ways += [way for run in options.run for way in of_run(run, imgsz)]
    times_RW = np.array(turns(ways, options.rounds))
    accuracies = [map50_95(way, data) for way in ways]
    title = f"yolov5nu, {imgsz} px, one thread, {len(data)} images, {options.rounds} turns"
    table = Table("", "ms", "speed-up", "in turns", "mAP50-95", "kept", title=title)
    fastest_W = times_RW.min(axis=0)
    for column, (way, accuracy) in enumerate(zip(ways, accuracies, strict=True)):
        ratios = times_RW[:, 0] / times_RW[:, column]
        table.add_row(
            way.name,
            f"{fastest_W[column]:.2f}",
            f"{fastest_W[0] / fastest_W[column]:.2f}",
            f"{statistics.median(ratios):.2f}",
            f"{accuracy:.3f}",
            f"{accuracy / accuracies[0]:.1%}",
        )
    return table


def main() -> None:
    """Print a table for each input size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, nargs="*", default=[])
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--imgsz", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--images", type=int, help="validation images [all]")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=110)
    data = load_dataset(options.shared / "coco/coco.yaml", "val")
    data = data.subset(options.images or len(data))
    calibration = load_dataset(options.shared / "coco/coco.yaml", "train")
    with tempfile.TemporaryDirectory() as folder:
        for imgsz in options.imgsz:
            part = calibration.subset(CALIBRATION_IMAGES)
            console.print(compare(options, imgsz, part, data, Path(folder)))
    if importlib.util.find_spec("nncf") is None:
        console.print("NNCF is not installed: its row is missing (pip install .[benchmarks]).")


if __name__ == "__main__":
    main()

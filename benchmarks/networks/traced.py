"""Networks traced from torchvision and ultralytics: exported to ONNX, read by our own reader."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision
from ultralytics import YOLO

from hw_models.onnx_reader import read_onnx
from hw_models.workload import Workload

TORCHVISION = (
    "alexnet", "squeezenet1_0", "squeezenet1_1", "resnet18", "resnet34", "resnet50", "resnet101",
    "resnet152", "densenet121", "densenet161", "densenet169", "densenet201", "vgg11", "vgg13",
    "vgg16", "vgg19", "mobilenet_v2", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0",
    "mnasnet1_3", "inception_v3",
)  # fmt: skip
ULTRALYTICS = (
    "yolov8n", "yolov8s", "yolov8m", "yolov9t", "yolov9s", "yolov9m", "yolov10n", "yolov10s",
    "yolov10m",
)  # fmt: skip


def traced() -> Iterator[tuple[str, Workload]]:
    """Yield the name and the layers of each network."""
    for name in TORCHVISION:
        options = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
        model = getattr(torchvision.models, name)(weights=None, **options).eval()
        yield name, _trace(model, 299 if name == "inception_v3" else 224)
    for name in ULTRALYTICS:
        model = YOLO(f"{name}.yaml").model.eval().fuse(verbose=False)
        for module in model.modules():
            if type(module).__name__ in {"Detect", "v10Detect"}:
                module.export, module.format = True, "onnx"
        yield name, _trace(model, 640)


def _trace(model: Any, size: int) -> Workload:
    image = torch.zeros(1, 3, size, size)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter announces its end
        path = Path(folder) / "network.onnx"
        torch.onnx.export(model, image, str(path), dynamo=False, opset_version=17)
        return read_onnx(path).workload

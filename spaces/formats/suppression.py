"""Non-maximum suppression inside an ONNX graph: detections come out instead of raw outputs.

The operator NonMaxSuppression is ONNX's own (ONNX Runtime, OpenVINO and TensorRT from 8.5 run it);
it works class by class, as `evaluators.detection` does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MAX_IOU = 0.7  # as ultralytics' val, and as mAP is measured here
MAX_DETECTIONS = 300  # of a class
OUTPUT = "detections"
BOX_ROWS = 4


def add_suppression(model: onnx.ModelProto, min_score: float) -> None:
    """Let a detector return [K, 6]: x1 y1 x2 y2 in input pixels, score, class; in place.

    Args:
        model: With one output [1, 4 + C, A] as `spaces.export` writes it.
        min_score: Least score of a detection, 0..1.
    """
    graph = model.graph
    raw = graph.output[0].name
    constants = {
        "nms_rows": np.array([BOX_ROWS], np.int64),
        "nms_zero": np.array([0], np.int64),
        "nms_last": np.array([np.iinfo(np.int64).max], np.int64),
        "nms_axis": np.array([1], np.int64),
        "nms_one": np.array([1], np.int64),
        "nms_box": np.array([2], np.int64),
        "nms_most": np.array([MAX_DETECTIONS], np.int64),
        "nms_iou": np.array([MAX_IOU], np.float32),
        "nms_score": np.array([min_score], np.float32),
        "nms_half": np.array(0.5, np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in constants.items())
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Slice", [raw, "nms_zero", "nms_rows", "nms_axis"], "nms_boxes_4A", {}),
        ("Slice", [raw, "nms_rows", "nms_last", "nms_axis"], "nms_scores_CA", {}),
        ("Transpose", ["nms_boxes_4A"], "nms_boxes_A4", {"perm": [0, 2, 1]}),
        (
            "NonMaxSuppression",
            ["nms_boxes_A4", "nms_scores_CA", "nms_most", "nms_iou", "nms_score"],
            "nms_chosen_K3",  # image, class, anchor
            {"center_point_box": 1},
        ),
        ("Slice", ["nms_chosen_K3", "nms_one", "nms_box", "nms_axis"], "nms_class_K1", {}),
        ("Slice", ["nms_chosen_K3", "nms_box", "nms_last", "nms_axis"], "nms_anchor_K1", {}),
        ("Squeeze", ["nms_anchor_K1", "nms_axis"], "nms_anchor_K", {}),
        ("Squeeze", ["nms_boxes_A4", "nms_zero"], "nms_all_A4", {}),
        ("Gather", ["nms_all_A4", "nms_anchor_K"], "nms_chosen_K4", {"axis": 0}),
        ("Split", ["nms_chosen_K4"], "nms_center_K2 nms_size_K2", {"axis": 1}),
        ("Mul", ["nms_size_K2", "nms_half"], "nms_reach_K2", {}),
        ("Sub", ["nms_center_K2", "nms_reach_K2"], "nms_low_K2", {}),
        ("Add", ["nms_center_K2", "nms_reach_K2"], "nms_high_K2", {}),
        ("GatherND", ["nms_scores_CA", "nms_chosen_K3"], "nms_score_K", {}),
        ("Unsqueeze", ["nms_score_K", "nms_axis"], "nms_score_K1", {}),
        ("Cast", ["nms_class_K1"], "nms_label_K1", {"to": TensorProto.FLOAT}),
        (
            "Concat",
            ["nms_low_K2", "nms_high_K2", "nms_score_K1", "nms_label_K1"],
            OUTPUT,
            {"axis": 1},
        ),
    ]
    graph.node.extend(
        helper.make_node(op, inputs, outputs.split(), name=outputs.split()[0], **attributes)
        for op, inputs, outputs, attributes in steps
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["K", 6]))
    onnx.checker.check_model(model, full_check=True)

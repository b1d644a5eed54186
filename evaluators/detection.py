"""From raw outputs to mAP, with the settings of ultralytics' val and the scoring of pycocotools.

Shapes: B images, A anchors (candidate boxes), C classes, K detections of one image.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import nms

from evaluators.bootstrap import resampled_maps
from evaluators.dataset import Dataset
from evaluators.letterbox import place, to_image

# ultralytics/cfg/default.yaml and engine/validator.py: conf, iou, max_det of val
MIN_CONFIDENCE = 0.001
MAX_IOU = 0.7
MAX_DETECTIONS = 300
MAX_CANDIDATES = 30_000  # ultralytics/utils/nms.py: max_nms
# Suppression is quadratic and only looks upwards in score: when the best few already give
# MAX_DETECTIONS, the rest cannot change them.
FIRST_LOOK = 3000
CLASS_OFFSET = 7680  # ultralytics/utils/nms.py: max_wh; boxes of different classes never overlap


def detect(outputs_BXA: torch.Tensor) -> list[torch.Tensor]:
    """Suppress overlapping boxes, several labels a box allowed.

    The same steps as `ultralytics.utils.nms.non_max_suppression` under val, without its time limit:
    under load that one silently drops images, and a score would depend on the machine.

    Args:
        outputs_BXA: [B, 4 + C, A] boxes as x y w h in input pixels, then class scores in 0..1.

    Returns:
        B tensors [K, 6]: x1 y1 x2 y2 in input pixels, score, class; best first.
    """
    return [_detect_one(output_AX) for output_AX in outputs_BXA.float().transpose(1, 2)]


def _detect_one(output_AX: torch.Tensor) -> torch.Tensor:
    scores_AC = output_AX[:, 4:]
    anchor, label = torch.where(scores_AC > MIN_CONFIDENCE)
    score = scores_AC[anchor, label]
    order = score.argsort(descending=True, stable=True)[:MAX_CANDIDATES]
    kept = _suppress(output_AX, anchor, label, score, order[:FIRST_LOOK])
    if len(kept) < MAX_DETECTIONS and len(order) > FIRST_LOOK:
        kept = _suppress(output_AX, anchor, label, score, order)
    return kept


def _suppress(
    output_AX: torch.Tensor,
    anchor: torch.Tensor,
    label: torch.Tensor,
    score: torch.Tensor,
    chosen: torch.Tensor,
) -> torch.Tensor:
    anchor, label, score = anchor[chosen], label[chosen], score[chosen]
    center, half = output_AX[anchor, :2], output_AX[anchor, 2:4] / 2
    boxes = torch.cat([center - half, center + half], dim=1)
    kept = nms(boxes + label[:, None] * CLASS_OFFSET, score, MAX_IOU)[:MAX_DETECTIONS]
    return torch.cat([boxes[kept], score[kept, None], label[kept, None].float()], dim=1)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Average precision as COCO defines it, in 0..1.

    Attributes:
        map50_95: Mean over classes and IoU .50, .55, ... .95.
        map50: Mean over classes at IoU .50.
        small: map50_95 of objects below 32² pixels; None where the data has none, or nobody asked.
        medium: The same from 32² to 96².
        large: The same above 96².
        per_class: (name, its average precision over IoU .50 to .95) of the classes that occur.
        resampled: map50_95 on resampled images (`evaluators.bootstrap`).
    """

    map50_95: float
    map50: float
    small: float | None
    medium: float | None
    large: float | None
    per_class: tuple[tuple[str, float], ...]
    resampled: tuple[float, ...]


def score_detections(
    detections: Sequence[torch.Tensor], data: Dataset, imgsz: int, by_area: bool = False
) -> Accuracy:
    """Score detections against the truth.

    Args:
        detections: For each image of `data`, [K, 6] as `detect` returns them.
        data: The images and their truth.
        imgsz: Side of the square the boxes are in.
        by_area: Whether objects of each size are looked at apart, too: that takes four times as
            long.

    Raises:
        ValueError: If there is not one tensor for each image.
    """
    if len(detections) != len(data):
        raise ValueError(f"expected detections of {len(data)} images, got {len(detections)}")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_truth(data), _found(detections, data, imgsz), "bbox")
        params = evaluation.params
        params.maxDets = [100]
        # What the data lacks has no average precision.
        params.catIds = sorted({a.class_index for a in data.annotations})
        if not by_area:
            params.areaRng, params.areaRngLbl = params.areaRng[:1], params.areaRngLbl[:1]
        evaluation.evaluate()
        evaluation.accumulate()
    resampled = resampled_maps(evaluation)
    names = [data.names[index] for index in params.catIds]
    return _accuracy(evaluation.eval["precision"][..., 0], names, resampled)


def _truth(data: Dataset) -> COCO:
    annotations = [
        {
            "id": number,
            "image_id": a.image_id,
            "category_id": a.class_index,
            "bbox": list(a.box_xywh),
            "area": a.area,
            "iscrowd": int(a.crowd),
        }
        for number, a in enumerate(data.annotations, start=1)
    ]
    return _coco(annotations, data)


def _found(detections: Sequence[torch.Tensor], data: Dataset, imgsz: int) -> COCO:
    rows = []
    for found, image_id, size in zip(detections, data.image_ids, data.sizes, strict=True):
        table = found.numpy(force=True)
        x1, y1, x2, y2 = to_image(table[:, :4], place(*size, imgsz)).astype(float).T
        width, height = x2 - x1, y2 - y1
        columns = (x1, y1, width, height, width * height, table[:, 4], table[:, 5])
        rows += [(image_id, *row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    annotations = [
        {
            "id": number,
            "image_id": image_id,
            "category_id": int(label),
            "bbox": [x, y, width, height],
            "area": area,
            "score": score,
            "iscrowd": 0,
        }
        for number, (image_id, x, y, width, height, area, score, label) in enumerate(rows, start=1)
    ]
    return _coco(annotations, data)


def _coco(annotations: list[dict[str, object]], data: Dataset) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image_id} for image_id in data.image_ids],
        "categories": [{"id": index, "name": name} for index, name in enumerate(data.names)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _accuracy(
    precision_TRCA: NDArray[np.float64], names: Sequence[str], resampled: tuple[float, ...]
) -> Accuracy:
    """Average the precision table: T IoU thresholds, R recall levels, C classes, A area ranges.

    Classes without objects (all of them crowds, say) are marked -1 in it.
    """
    all_areas = precision_TRCA[..., 0]
    present = [index for index in range(len(names)) if all_areas[0, 0, index] > -1]
    small, medium, large = (
        _mean(precision_TRCA[..., area]) if precision_TRCA.shape[3] > 1 else None
        for area in (1, 2, 3)
    )
    return Accuracy(
        map50_95=_mean(all_areas) or 0.0,
        map50=_mean(all_areas[0]) or 0.0,
        small=small,
        medium=medium,
        large=large,
        per_class=tuple((names[i], float(all_areas[..., i].mean())) for i in present),
        resampled=resampled,
    )


def _mean(precision: NDArray[np.float64]) -> float | None:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None

"""How much of an mAP is the luck of its images: mAP on resampled images, without scoring anew.

COCO's average precision of one class needs, of every detection, its score and whether it is right.
Which detections those are does not change when an image counts twice or not at all, only how much
each of them counts. So images are matched once, and all resamples come from weighted sums.

The resamples are the same for every model on the same images: the spread of the *difference* of two
models' resampled values is the noise of their comparison, a third of that of each value alone.

Source: Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 1979.

Axis letters: B resamples, I images, T IoU thresholds, D detections of one class, best first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

RESAMPLES = 24

Floats = NDArray[np.float64]


def resampled_maps(evaluation: COCOeval, resamples: int = RESAMPLES) -> tuple[float, ...]:
    """Return mAP50-95 on images drawn with repetition, `resamples` times.

    Args:
        evaluation: After its `evaluate`, with one limit on detections.
        resamples: How many; their number decides all of them.
    """
    images = len(evaluation.params.imgIds)
    draws = np.random.default_rng(0).integers(0, images, (resamples, images))
    weights_BI = np.apply_along_axis(np.bincount, 1, draws, minlength=images).astype(np.float64)
    return tuple(weighted_maps(evaluation, weights_BI).tolist())


def weighted_maps(evaluation: COCOeval, weights_BI: Floats) -> Floats:
    """Return mAP50-95 [B] where image i counts `weights_BI[b, i]` times."""
    params = evaluation.params
    images, limit, recalls = len(params.imgIds), params.maxDets[-1], np.asarray(params.recThrs)
    total_B, classes_B = np.zeros(len(weights_BI)), np.zeros(len(weights_BI))
    for number in range(len(params.catIds)):
        first = number * len(params.areaRng) * images  # the first area range is all areas
        precision_B, present_B = _class_precision(
            evaluation.evalImgs[first : first + images], weights_BI, limit, recalls
        )
        total_B += precision_B
        classes_B += present_B
    return total_B / np.maximum(classes_B, 1)


def _class_precision(
    matched: Sequence[Mapping[str, Any] | None], weights_BI: Floats, limit: int, recalls: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return one class's average precision [B], 0 where it has no objects, and where it has some.

    Args:
        matched: What `COCOeval` found in each image; None where there was nothing of the class.
        weights_BI: How often each image counts.
        limit: Detections of an image that count, best first.
        recalls: Levels of recall that precision is averaged over, rising.
    """
    seen = [(image, found) for image, found in enumerate(matched) if found is not None]
    objects_B = sum(
        (weights_BI[:, i] * np.count_nonzero(found["gtIgnore"] == 0) for i, found in seen),
        np.zeros(len(weights_BI)),
    )
    present_B = objects_B > 0
    score_D = np.concatenate([np.zeros(0), *(found["dtScores"][:limit] for _, found in seen)])
    if not present_B.any() or not len(score_D):
        return np.zeros(len(weights_BI)), present_B
    order = np.argsort(-score_D, kind="mergesort")
    image_D = np.repeat(
        [i for i, _ in seen], [len(found["dtScores"][:limit]) for _, found in seen]
    )[order]
    right_TD = np.concatenate([found["dtMatches"][:, :limit] for _, found in seen], 1)[:, order] > 0
    void_TD = np.concatenate([found["dtIgnore"][:, :limit] for _, found in seen], 1)[:, order] > 0
    weight_BD = weights_BI[:, image_D]
    hits_BTD = np.cumsum(weight_BD[:, None] * (right_TD & ~void_TD), axis=2)
    misses_BTD = np.cumsum(weight_BD[:, None] * (~right_TD & ~void_TD), axis=2)
    precision_BTD = hits_BTD / np.maximum(hits_BTD + misses_BTD, np.spacing(1))
    # The precision at a recall level is the best one at that recall or above.
    precision_BTD = np.maximum.accumulate(precision_BTD[..., ::-1], axis=2)[..., ::-1]
    recall_BTD = hits_BTD / np.where(present_B, objects_B, 1.0)[:, None, None]
    # How many of the recall levels each detection is the first to reach.
    reached_BTD = np.searchsorted(recalls, recall_BTD, side="right")
    average_BT = (precision_BTD * np.diff(reached_BTD, axis=2, prepend=0)).sum(2) / len(recalls)
    return np.where(present_B, average_BT.mean(axis=1), 0.0), present_B

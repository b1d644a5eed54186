"""How far the outputs of a compressed network are from the dense one's: cheap guesses at lost mAP.

Both come from one forward pass on unlabelled images. *Distortion* is the normalised squared error
of the outputs; it adds up over layers and stays informative when nothing is detected any more.
*Agreement* asks how many of the dense detections are found again, where, and how surely; it
predicts mAP better, most of all when it is optimised.

Shapes: B images, A anchors, C classes, R anchors looked at, K detections of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

REFERENCE_ANCHORS = 256  # of each image: those the dense model is surest of
LOWEST_SCORE = 1e-4  # scores below it are equally hopeless; keeps logits finite
MIN_CONFIDENCE = 0.05  # detections below it are noise to the agreement


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What the dense model says about some images.

    Attributes:
        anchors_BR: The anchors it is surest of.
        boxes_B4R: Their boxes, x y w h in input pixels.
        logits_BCR: The logits of their class scores.
        detections: [K, 6] of each image, as `evaluators.detection.detect` returns them.
    """

    anchors_BR: Tensor
    boxes_B4R: Tensor
    logits_BCR: Tensor
    detections: tuple[Tensor, ...]


def reference(outputs_BXA: Tensor, detections: Sequence[Tensor]) -> Reference:
    """Keep what is needed of the dense model's outputs [B, 4 + C, A] and detections."""
    count = min(REFERENCE_ANCHORS, outputs_BXA.shape[2])
    anchors_BR = outputs_BXA[:, 4:].amax(1).topk(count, dim=1).indices
    chosen_BXR = _at(outputs_BXA, anchors_BR)
    return Reference(anchors_BR, chosen_BXR[:, :4], _logits(chosen_BXR[:, 4:]), tuple(detections))


def distortion(outputs_BXA: Tensor, dense: Reference) -> float:
    """Return the normalised squared error of the outputs; 0 where they equal the dense ones.

    The mean of two terms: of the class logits, their squared error over their variance; of the
    boxes, the squared error of x, y (in box sizes) and log w, log h, weighted by the dense score.
    """
    chosen_BXR = _at(outputs_BXA, dense.anchors_BR)
    error = (_logits(chosen_BXR[:, 4:]) - dense.logits_BCR).square().mean()
    of_scores = error / dense.logits_BCR.var()
    before, after = dense.boxes_B4R, chosen_BXR[:, :4].clamp(-1e5, 1e5)
    size = before[:, 2:].clamp_min(1)
    shift = (after[:, :2] - before[:, :2]) / size
    growth = torch.log(after[:, 2:].clamp_min(1) / size)
    weight = dense.logits_BCR.amax(1).sigmoid()
    error_BR = shift.square().sum(1) + growth.square().sum(1)
    of_boxes = (weight * error_BR).sum() / weight.sum()
    return float((of_scores + of_boxes) / 2)


def agreement(detections: Sequence[Tensor], dense: Reference) -> float:
    """Return the share of the dense detections found again, in 0..1.

    Every dense detection takes the detection of its class that overlaps it most and counts its
    score times their IoU times the ratio of their scores. The sum is divided by all dense scores
    and the scores of detections nobody took (false positives). Without any dense detection: 1 if
    there is none now either, else 0.
    """
    gained = possible = 0.0
    for now, before in zip(detections, dense.detections, strict=True):
        image_gain, image_possible = _agree(_sure(now), _sure(before))
        gained += image_gain
        possible += image_possible
    return min(gained / possible, 1.0) if possible else 1.0


def _agree(now_K6: Tensor, before_K6: Tensor) -> tuple[float, float]:
    """Return what one image gains and could gain."""
    score_before, score_now = before_K6[:, 4], now_K6[:, 4]
    possible = float(score_before.sum())
    if not len(now_K6) or not len(before_K6):
        return 0.0, possible + float(score_now.sum())
    iou = box_iou(before_K6[:, :4], now_K6[:, :4])
    iou = iou * (before_K6[:, 5, None] == now_K6[None, :, 5])
    best, taken = iou.max(1)
    surer = torch.maximum(score_before, score_now[taken])
    ratio = torch.minimum(score_before, score_now[taken]) / surer
    free = torch.ones(len(now_K6), dtype=torch.bool)
    free[taken[best > 0]] = False
    return float((score_before * best * ratio).sum()), possible + float(score_now[free].sum())


def _sure(detections_K6: Tensor) -> Tensor:
    return detections_K6[detections_K6[:, 4] >= MIN_CONFIDENCE].double()


def _at(outputs_BXA: Tensor, anchors_BR: Tensor) -> Tensor:
    index = anchors_BR[:, None].expand(-1, outputs_BXA.shape[1], -1)
    return outputs_BXA.gather(2, index)


def _logits(scores: Tensor) -> Tensor:
    return torch.logit(scores.clamp(LOWEST_SCORE, 1 - LOWEST_SCORE))

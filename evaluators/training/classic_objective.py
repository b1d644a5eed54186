"""The training of classic, anchor-based YOLOv5 detectors: the loss of the yolov5 project.

An object belongs to each anchor that its width and height are within a factor of `LARGEST_RATIO`
of, in the cell of its centre and the two neighbours that the centre is nearest to; boxes are
trained by CIoU, objectness by the overlap that was reached, classes one by one (yolov5 v7.0,
utils/loss.py). Letters: B images, L levels, a anchors a cell, K objects, M assigned places, C
classes; logits of a level are [B, a, 5 + C, h, w].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from ultralytics.utils.metrics import bbox_iou

from evaluators.training.images import Batch
from evaluators.training.objective import Raw, bernoulli_divergence

LARGEST_RATIO = 4.0
BALANCE = (4.0, 1.0, 0.4)  # of objectness on levels of stride 8, 16, 32
BOX_GAIN, CLASS_GAIN, OBJECT_GAIN = 0.05, 0.5, 1.0  # hyp.scratch-low.yaml
NOMINAL_IMGSZ, NOMINAL_CLASSES, NOMINAL_LEVELS = 640, 80, 3
NOMINAL_BATCH = 16  # yolov5 multiplies by the batch: so the loss is as large as a u-model's
BOX = 4
REACH = 0.5  # of a cell: how near a centre must be to a neighbour


@dataclass(frozen=True, slots=True, eq=False)
class Assigned:
    """Where objects belong on one level.

    Attributes:
        image: [M].
        anchor: [M].
        row: [M].
        column: [M].
        box: [M, 4], centre from the cell's corner, width and height, in cells.
        label: [M].
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    box: Tensor
    label: Tensor


class ClassicObjective:
    """See the module.

    Args:
        net: Any network of the same classes, strides and anchors.
    """

    def __init__(self, net: nn.Module) -> None:
        head: Any = net.get_submodule("model")[-1]  # type: ignore[index]
        self._anchors: Tensor = head.anchors.detach()
        self._classes = int(head.nc)

    def raw(self, net: nn.Module, images: Tensor) -> Raw:
        """Run a network and look at what its head's convolutions read and write."""
        head: Any = net.get_submodule("model")[-1]  # type: ignore[index]
        logits: dict[str, Tensor] = {}
        maps: list[Tensor] = []

        def look(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            batch, _channels, height, width = output.shape
            anchors = self._anchors.shape[1]
            logits[str(len(maps))] = output.float().view(batch, anchors, -1, height, width)
            maps.append(args[0])

        handles = [conv.register_forward_hook(look) for conv in head.m]
        try:
            net(images)
        finally:
            for handle in handles:
                handle.remove()
        return Raw(logits, maps)

    def loss(self, raw: Raw, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the loss an image and its parts."""
        imgsz = batch["img"].shape[-1]
        parts = {name: raw.maps[0].new_zeros(()) for name in ("box_loss", "cls_loss", "obj_loss")}
        for level, logits in enumerate(raw.outputs.values()):
            anchors = self._anchors[level].to(logits.device)
            box, label, objectness = self._level_loss(logits, anchors, batch)
            parts["box_loss"] = parts["box_loss"] + box
            parts["cls_loss"] = parts["cls_loss"] + label
            parts["obj_loss"] = parts["obj_loss"] + objectness * BALANCE[level]
        share = NOMINAL_BATCH * NOMINAL_LEVELS / len(raw.outputs)
        gains = {
            "box_loss": BOX_GAIN,
            "cls_loss": CLASS_GAIN * self._classes / NOMINAL_CLASSES,
            "obj_loss": OBJECT_GAIN * (imgsz / NOMINAL_IMGSZ) ** 2,
        }
        weighted = {name: share * gains[name] * value for name, value in parts.items()}
        total = torch.stack(list(weighted.values())).sum()
        return total, {name: float(value.detach()) for name, value in weighted.items()}

    def _level_loss(
        self, logits: Tensor, anchors: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses of boxes, classes and objectness of one level [scalars]."""
        found = assign(batch, anchors, (logits.shape[3], logits.shape[4]))
        wanted = torch.zeros_like(logits[:, :, BOX])
        box = label = logits.sum() * 0.0
        if len(found.image):
            chosen = logits[found.image, found.anchor, :, found.row, found.column]
            sigmoid = chosen[:, :BOX].sigmoid()
            size = (sigmoid[:, 2:] * 2) ** 2 * anchors[found.anchor]
            boxes = torch.cat((sigmoid[:, :2] * 2 - 0.5, size), 1)
            overlap = bbox_iou(boxes, found.box, xywh=True, CIoU=True).squeeze(-1)
            box = (1.0 - overlap).mean()
            wanted[found.image, found.anchor, found.row, found.column] = overlap.detach().clamp(0)
            if self._classes > 1:
                hot = nn.functional.one_hot(found.label, self._classes).to(chosen.dtype)
                label = cross_entropy(chosen[:, BOX + 1 :], hot)
        return box, label, cross_entropy(logits[:, :, BOX], wanted)

    def imitation(self, raw: Raw, teacher: Raw) -> Tensor:
        """Return the divergence of objectness, classes and boxes from the teacher's.

        Objectness counts everywhere; classes and boxes (squared error of their sigmoids) where the
        teacher sees an object. The sum is divided by how much the teacher sees.
        """
        total = seen = raw.maps[0].new_zeros(())
        for ours, theirs in zip(raw.outputs.values(), teacher.outputs.values(), strict=True):
            sure = theirs[:, :, BOX].sigmoid()
            total = total + bernoulli_divergence(ours[:, :, BOX], theirs[:, :, BOX]).sum()
            labels = bernoulli_divergence(ours[:, :, BOX + 1 :], theirs[:, :, BOX + 1 :]).sum(2)
            boxes = (ours[:, :, :BOX].sigmoid() - theirs[:, :, :BOX].sigmoid()).square().sum(2)
            total = total + ((labels + boxes) * sure).sum()
            seen = seen + sure.sum()
        return total / seen.clamp(min=1)

    def seen(self, teacher: Raw) -> list[Tensor]:
        """Return the largest objectness at each place."""
        return [
            logits[:, :, BOX].sigmoid().amax(1, keepdim=True) for logits in teacher.outputs.values()
        ]


def assign(batch: Batch, anchors: Tensor, shape: tuple[int, int]) -> Assigned:
    """Assign the objects of a batch to the places of one level.

    Args:
        batch: See `images.Batch`.
        anchors: [a, 2], widths and heights in cells.
        shape: Rows and columns of the level.
    """
    height, width = shape
    cells = torch.tensor([width, height, width, height], device=anchors.device)
    boxes = batch["bboxes"] * cells  # [K, 4]
    ratio = boxes[:, None, 2:] / anchors[None]  # [K, a, 2]
    fits = torch.maximum(ratio, 1 / ratio).amax(2) < LARGEST_RATIO
    objects, chosen = fits.nonzero(as_tuple=True)
    centres = boxes[objects, :2]
    steps = _neighbours(centres, centres.new_tensor([width, height]))
    places = [(centres - step).long() for step, _ in steps]
    keep = [mask for _, mask in steps]
    objects = torch.cat([objects[mask] for mask in keep])
    anchor = torch.cat([chosen[mask] for mask in keep])
    corner = torch.cat([place[mask] for place, mask in zip(places, keep, strict=True)])
    box = torch.cat((boxes[objects, :2] - corner, boxes[objects, 2:]), 1)
    return Assigned(
        batch["batch_idx"].long()[objects],
        anchor,
        corner[:, 1].clamp(0, height - 1),
        corner[:, 0].clamp(0, width - 1),
        box,
        batch["cls"].long().view(-1)[objects],
    )


def _neighbours(centres: Tensor, size: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return steps back from centres [M, 2] to the cells that count, and for which they do [M]."""
    everywhere = torch.ones(len(centres), dtype=torch.bool, device=centres.device)
    near_low = (centres % 1 < REACH) & (centres > 1)  # the cell to the left, above
    away = size - centres
    near_high = (away % 1 < REACH) & (away > 1)  # to the right, below
    steps = [(centres.new_zeros(2), everywhere)]
    for axis in (0, 1):
        step = centres.new_zeros(2)
        step[axis] = REACH
        steps += [(step, near_low[:, axis]), (-step, near_high[:, axis])]
    return steps

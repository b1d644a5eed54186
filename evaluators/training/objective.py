"""What a detector is trained for: its family's own loss, and the raw outputs that loss reads.

Letters: B images, L levels of the head, A anchor points of all levels, C classes, R bins of a
box side's distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

from torch import Tensor, nn
from ultralytics.cfg import DEFAULT_CFG
from ultralytics.utils.loss import v8DetectionLoss

from evaluators.training.images import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """What a network says before decoding.

    Attributes:
        outputs: The head's own numbers; their form is the family's.
        maps: [B, channels, h, w] a level: what the head reads.
    """

    outputs: dict[str, Tensor]
    maps: list[Tensor]


class Objective(Protocol):
    """The training of one family of detectors."""

    def raw(self, net: nn.Module, images: Tensor) -> Raw:
        """Run a network on images [B, 3, S, S]."""

    def loss(self, raw: Raw, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the loss a batch [scalar] and its parts by name."""

    def imitation(self, raw: Raw, teacher: Raw) -> Tensor:
        """Return how far the outputs are from a teacher's [scalar], weighted by what it sees."""

    def seen(self, teacher: Raw) -> list[Tensor]:
        """Return for each level how sure the teacher is of an object, [B, 1, h, w] in 0..1."""


class UObjective:
    """Task-aligned assignment, CIoU and distribution focal loss: ultralytics' `v8DetectionLoss`.

    Args:
        net: Any network of the same classes and strides, on the device that is trained on.
    """

    def __init__(self, net: nn.Module) -> None:
        gains = SimpleNamespace(box=DEFAULT_CFG.box, cls=DEFAULT_CFG.cls, dfl=DEFAULT_CFG.dfl)
        untyped: Any = net
        untyped.args = gains  # where the loss looks for them
        self._loss = v8DetectionLoss(untyped)

    def raw(self, net: nn.Module, images: Tensor) -> Raw:
        """Run a network; the head hands out its numbers undecoded only in training mode."""
        head: Any = net.get_submodule("model")[-1]  # type: ignore[index]
        mode = head.training
        head.training = True
        try:
            outputs = net(images)
        finally:
            head.training = mode
        logits = {name: outputs[name].float() for name in ("boxes", "scores")}
        return Raw(logits, list(outputs["feats"]))

    def loss(self, raw: Raw, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the loss an image and its parts."""
        losses, parts = self._loss({**raw.outputs, "feats": raw.maps}, batch)
        images = len(raw.maps[0])
        return losses.sum() / images, {name: float(value) for name, value in parts.items()}

    def imitation(self, raw: Raw, teacher: Raw) -> Tensor:
        """Return the divergence of class scores and of box-side distributions from the teacher's.

        Scores: KL divergence of Bernoulli variables at all places. Boxes: KL divergence of the
        distributions over R bins where the teacher sees something (localisation distillation,
        Zheng et al., arXiv 2102.12252). Both are divided by how much the teacher sees, so that the
        few places with objects count, not the many without.
        """
        scores, expected = raw.outputs["scores"], teacher.outputs["scores"]
        sure = expected.sigmoid().amax(1)  # [B, A]
        total = sure.sum().clamp(min=1)
        boxes, wanted = (
            x.outputs["boxes"].unflatten(1, (4, -1)).log_softmax(2) for x in (raw, teacher)
        )
        sides = (wanted.exp() * (wanted - boxes)).sum(2).mean(1)  # [B, A]
        return (bernoulli_divergence(scores, expected).sum() + (sides * sure).sum()) / total

    def seen(self, teacher: Raw) -> list[Tensor]:
        """Return the largest class probability at each place."""
        sure = teacher.outputs["scores"].sigmoid().amax(1, keepdim=True)
        sizes = [x.shape[2] * x.shape[3] for x in teacher.maps]
        levels = zip(sure.split(sizes, 2), teacher.maps, strict=True)
        return [x.unflatten(2, (maps.shape[2], maps.shape[3])) for x, maps in levels]


def bernoulli_divergence(logits: Tensor, expected: Tensor) -> Tensor:
    """Return KL(expected || actual) of independent Bernoulli variables given by logits, each."""
    p = expected.sigmoid()
    softplus = nn.functional.softplus
    # p log(p/q) + (1-p) log((1-p)/(1-q)), with log p = -softplus(-x), log(1-p) = -softplus(x)
    return p * (softplus(-logits) - softplus(-expected)) + (1 - p) * (
        softplus(logits) - softplus(expected)
    )

"""Knowledge distillation from the dense model: its outputs, and the maps its head reads.

*Outputs*: the divergence that the family's objective defines (class scores everywhere, boxes where
the teacher sees something). *Features*: the student's maps pass a 1x1 convolution to the teacher's
channels (Romero et al., FitNets, arXiv 1412.6550) and are compared mostly where the teacher sees an
object (Wang et al., fine-grained feature imitation, arXiv 1906.03609).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evaluators.training.objective import Objective, Raw

BACKGROUND = 0.1  # weight of a place where the teacher sees nothing; 1 where it is sure
FEATURES = 0.5  # weight of features against outputs
TINY_VARIANCE = 1e-6


class Distillation(nn.Module):
    """The distance of a student from its teacher, with the adapters that it learns on the way.

    Args:
        objective: Of the family of both.
        student_channels: Of the maps the student's head reads, a level.
        teacher_channels: The same of the teacher.
    """

    def __init__(
        self,
        objective: Objective,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
    ) -> None:
        super().__init__()
        self._objective = objective
        pairs = zip(student_channels, teacher_channels, strict=True)
        self.adapters = nn.ModuleList(nn.Conv2d(ours, theirs, 1) for ours, theirs in pairs)
        for adapter in self.adapters:  # at first it predicts the mean: no noise for the student
            assert isinstance(adapter, nn.Conv2d)
            nn.init.zeros_(adapter.weight)

    def forward(self, student: Raw, teacher: Raw) -> Tensor:
        """Return the distance [scalar]; the teacher's numbers carry no gradient."""
        features = torch.stack(
            [
                _distance(adapter(ours.float()), theirs.float(), sure)
                for adapter, ours, theirs, sure in zip(
                    self.adapters,
                    student.maps,
                    teacher.maps,
                    self._objective.seen(teacher),
                    strict=True,
                )
            ]
        )
        return self._objective.imitation(student, teacher) + FEATURES * features.mean()


def _distance(ours: Tensor, theirs: Tensor, sure: Tensor) -> Tensor:
    """Return the weighted squared error [scalar] of maps [B, C, h, w] in units of C's variances."""
    variance = theirs.var((0, 2, 3), keepdim=True).clamp(min=TINY_VARIANCE)
    weight = BACKGROUND + (1 - BACKGROUND) * sure
    errors = ((ours - theirs).square() / variance).mean(1, keepdim=True)
    return (errors * weight).sum() / weight.sum()

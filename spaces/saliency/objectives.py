"""What gradients are taken of, without labels: the outputs of the dense model say what matters.

Outputs are [B, 4 + C, A]: boxes as x y w h in pixels, then class scores p in 0..1, of A anchors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Objective = Callable[[Tensor], Tensor]
"""Outputs [B, 4 + C, A] -> one number, summed over images."""

SUREST_ANCHORS = 64  # of each image; several for each object, and some of what only looks like one
LOWEST_SCORE = 1e-6  # keeps logits finite


def confidence_loss(outputs_BXA: Tensor) -> Tensor:
    """Return the cross entropy of the model's surest anchors with their own classes as labels.

    For each image -log p of the best class, averaged over the `SUREST_ANCHORS` anchors with the
    highest p. Unlike a distance to the dense outputs it has a gradient at the dense model.
    """
    surest_BR = outputs_BXA[:, 4:].amax(1).topk(min(SUREST_ANCHORS, outputs_BXA.shape[2])).values
    return -surest_BR.clamp_min(LOWEST_SCORE).log().mean(1).sum()


def random_projection(generator: torch.Generator) -> Objective:
    """Return an objective whose squared gradients are, on average, the curvature of a distance.

    The distance D between dense and compressed outputs, to second order, is the Kullback-Leibler
    divergence of the class probabilities plus the squared shift of the boxes in box sizes, log
    width and height, weighted by the anchor's best score. Its Hessian is J^T M J with
    M = p (1 - p) for a class logit. With random signs r the gradient g = J^T M^(1/2) r has
    E[g g^T] = J^T M J (Hutchinson 1989; the Gauss-Newton matrix, and for the classes the Fisher
    information, of Martens, arXiv 1412.1193).
    """

    def project(outputs_BXA: Tensor) -> Tensor:
        boxes_B4A, p_BCA = outputs_BXA[:, :4], outputs_BXA[:, 4:]
        dense_BCA = p_BCA.detach()
        logits_BCA = torch.logit(p_BCA.clamp(LOWEST_SCORE, 1 - LOWEST_SCORE))
        of_classes = _signed(logits_BCA, (dense_BCA * (1 - dense_BCA)).sqrt(), generator)
        size_B2A = boxes_B4A[:, 2:].detach().clamp_min(1)
        moves_B4A = torch.cat(
            [boxes_B4A[:, :2] / size_B2A, boxes_B4A[:, 2:].clamp_min(1).log()], dim=1
        )
        surest_B1A = dense_BCA.amax(1, keepdim=True)
        return of_classes + _signed(moves_B4A, surest_B1A.sqrt(), generator)

    return project


def _signed(values: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, values.shape, generator=generator, device=generator.device)
    signs = drawn.to(values.device) * 2.0 - 1.0
    return (signs * weights * values).sum()

"""The same architecture with fresh weights, to compare recovery with training from scratch."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from spaces.model import Detector


def fresh(detector: Detector, seed: int) -> Detector:
    """Return a copy of a detector, sliced or not, with its weights drawn anew.

    Args:
        detector: Gives the shapes; only what has no weights to learn keeps its values.
        seed: Of the weights.
    """
    net = copy.deepcopy(detector.net)
    fixed = {id(part) for m in net.modules() if type(m).__name__ == "DFL" for part in m.modules()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in net.modules():
            if id(module) not in fixed and isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
                module.reset_parameters()
        head: Any = net.get_submodule("model")[-1]  # type: ignore[index]
        head.bias_init()  # what a head says where there is nothing
    return replace(detector, net=net)

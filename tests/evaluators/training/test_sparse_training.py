from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluators.dataset import Dataset
from evaluators.training.lsq import Lsq
from evaluators.training.method import Method
from evaluators.training.slimming import VARIANTS, Slimming, Variant
from evaluators.training.surgery import PRUNED_UNTIL, Mask, Surgery, pattern_at
from evaluators.training.trainer import Plan, Training
from evaluators.training.zeros import KeepZeros
from spaces.model import Detector
from spaces.sparsity.names import parse_pattern

LAYER, OTHER = "model.3.conv", "model.5.conv"


def weight_of(detector: Detector, name: str) -> torch.Tensor:
    conv = detector.net.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return conv.weight.detach()


def trained(
    student: Detector, teacher: Detector, data: Dataset, methods: list[Method], epochs: int = 2
) -> Detector:
    training = Training(student, teacher, data, Plan(epochs, 2e-3, batch=6), methods)
    for _ in range(epochs):
        training.run_epoch()
    return training.result().detector


def test_zeros_stay_and_the_rest_learns(
    student: Detector, teacher: Detector, images: Dataset
) -> None:
    sparse = Training(student, teacher, images, Plan(1)).result().detector  # a copy
    before = weight_of(sparse, LAYER)
    kept = parse_pattern("2:4").mask(before.square())
    before.mul_(kept)
    before_again = before.clone()
    after = weight_of(trained(sparse, teacher, images, [KeepZeros([LAYER])], 1), LAYER)
    assert torch.equal(after != 0, kept)
    assert not torch.equal(after, before_again)


def test_masks_let_the_gradient_of_removed_weights_through() -> None:
    mask = Mask(torch.tensor([[[[True]], [[False]]]]))
    weight = torch.tensor([[[[2.0]], [[3.0]]]], requires_grad=True)
    y = mask(weight)
    assert y.flatten().tolist() == [2.0, 0.0]
    (y * torch.tensor([5.0, 7.0]).view(1, 2, 1, 1)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [5.0, 7.0]


def test_unstructured_layers_are_pruned_step_by_step() -> None:
    pattern = parse_pattern("unstructured-0.2")
    ratios = [pattern_at(pattern, progress / 10).keep_ratio for progress in range(11)]
    assert ratios[0] == 1.0
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[int(PRUNED_UNTIL * 10)] == pytest.approx(0.2)
    assert pattern_at(parse_pattern("2:4"), 0.0).keep_ratio == 0.5


def test_surgery_ends_with_its_patterns_and_changes_its_mind(
    student: Detector, teacher: Detector, images: Dataset
) -> None:
    patterns = {LAYER: "unstructured-0.3", OTHER: "2:4"}
    first = parse_pattern("2:4").mask(weight_of(student, OTHER).square())
    sparse = trained(student, teacher, images, [Surgery(patterns)], 10)
    loose, regular = weight_of(sparse, LAYER), weight_of(sparse, OTHER)
    assert float((loose != 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert torch.equal(regular != 0, parse_pattern("2:4").mask(regular.square()))
    moved = ((regular != 0) != first).float().mean()
    assert 0 < moved < 0.5
    assert sparse.net.state_dict().keys() == student.net.state_dict().keys()


def test_surgery_and_few_bits_go_together(
    student: Detector, teacher: Detector, images: Dataset
) -> None:
    methods: list[Method] = [Surgery({OTHER: "2:4"}), Lsq({OTHER: (4, 16), LAYER: (8, 16)})]
    sparse = trained(student, teacher, images, methods)
    weight = weight_of(sparse, OTHER)
    assert float((weight != 0).float().mean()) <= 0.5
    assert all(len(row.unique()) <= 16 for row in weight.flatten(1))


def small_scales(detector: Detector) -> float:
    """Return the mean of |gamma| over all channels."""
    norms = [m for m in detector.net.modules() if isinstance(m, nn.BatchNorm2d)]
    return float(torch.cat([norm.weight.detach().abs() for norm in norms]).mean())


@pytest.mark.parametrize("variant", VARIANTS)
def test_slimming_pulls_scales_to_zero(
    variant: Variant, student: Detector, teacher: Detector, images: Dataset
) -> None:
    slimming = Slimming(variant, strength=0.02)
    training = Training(student, teacher, images, Plan(1, 1e-4, batch=6), [slimming])
    training.run_epoch()
    slim = training.result().detector
    assert small_scales(slim) < small_scales(student) - 0.005
    assert slim.net.state_dict().keys() == student.net.state_dict().keys()


def test_compute_regularised_slimming_spares_cheap_layers(student: Detector) -> None:
    """A channel of the stem costs more than one deep inside at a small map."""
    net = Training(student, student, _nothing(), Plan(1), [Slimming("crlst")])
    costs = {
        name: float(block.get_buffer("macs_share"))
        for name, block in net.averaged.named_modules()
        if hasattr(block, "macs_share")
    }
    assert costs["model.1"] > 2 * costs["model.9.cv2"]
    assert sum(costs.values()) / len(costs) == pytest.approx(1.0)


def _nothing() -> Dataset:
    from evaluators.demo import demo_dataset

    return demo_dataset("train", 1)

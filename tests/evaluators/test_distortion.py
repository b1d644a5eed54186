from __future__ import annotations

import pytest
import torch

from evaluators.detection import detect
from evaluators.distortion import agreement, distortion, reference


def outputs(seed: int = 0, images: int = 2, anchors: int = 300) -> torch.Tensor:
    """Sparse confident boxes over a quiet background."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(images, 4, anchors, generator=generator) * 200 + 20
    scores = torch.rand(images, 3, anchors, generator=generator) ** 12
    return torch.cat([boxes, scores], dim=1)


def test_dense_is_perfect() -> None:
    out = outputs()
    found = detect(out)
    dense = reference(out, found)
    assert distortion(out, dense) == 0
    assert agreement(found, dense) == 1


def test_both_get_worse_with_noise() -> None:
    out = outputs()
    dense = reference(out, detect(out))
    noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    distances, agreements = [], []
    for strength in (0.02, 0.1, 0.4):
        worse = out.clone()
        worse[:, :4] += 40 * strength * noise[:, :4]
        worse[:, 4:] = torch.sigmoid(torch.logit(out[:, 4:], 1e-4) + 3 * strength * noise[:, 4:])
        distances.append(distortion(worse, dense))
        agreements.append(agreement(detect(worse), dense))
    assert 0 < distances[0] < distances[1] < distances[2]
    assert 1 > agreements[0] > agreements[1] > agreements[2] > 0


def row(x1: float, y1: float, x2: float, y2: float, score: float, label: int) -> list[float]:
    return [x1, y1, x2, y2, score, label]


DENSE = torch.tensor([row(0, 0, 10, 10, 0.8, 0), row(20, 20, 30, 30, 0.4, 1)])


def agree(now: list[list[float]]) -> float:
    dense = reference(torch.rand(1, 6, 4), [DENSE])
    return agreement([torch.tensor(now).reshape(-1, 6)], dense)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (DENSE.tolist(), 1.0),
        ([], 0.0),
        ([row(0, 0, 10, 10, 0.8, 0)], 0.8 / 1.2),  # one of two found
        ([row(0, 0, 10, 5, 0.8, 0)], 0.8 * 0.5 / 1.2),  # half of the box
        ([row(0, 0, 10, 10, 0.4, 0)], 0.8 * 0.5 / 1.2),  # half as sure
        ([row(0, 0, 10, 10, 0.8, 1)], 0.0),  # as another class: missed and a false positive
        ([*DENSE.tolist(), row(50, 50, 60, 60, 0.6, 0)], 1.2 / 1.8),  # a false positive
        ([*DENSE.tolist(), row(50, 50, 60, 60, 0.04, 0)], 1.0),  # too unsure to matter
    ],
)
def test_agreement_by_hand(now: list[list[float]], expected: float) -> None:
    assert agree(now) == pytest.approx(expected, abs=1e-6)


def test_agreement_about_nothing() -> None:
    dense = reference(torch.zeros(1, 6, 4), [torch.zeros(0, 6)])
    assert agreement([torch.zeros(0, 6)], dense) == 1
    assert agreement([DENSE], dense) == 0


def test_distortion_by_hand() -> None:
    """One confident anchor among quiet ones moves by half its width and doubles its height."""
    out = torch.zeros(1, 5, 4)
    out[:, :4] = torch.tensor([50.0, 50, 20, 20])[None, :, None]
    out[0, 4] = torch.tensor([1 - 1e-4, 1e-4, 1e-4, 1e-4])
    moved = out.clone()
    moved[0, 0, 0] += 10
    moved[0, 3, 0] *= 2
    error = 0.5**2 + torch.log(torch.tensor(2.0)) ** 2
    expected = float(error) / 2 * (1 - 1e-4) / (1 - 1e-4 + 3e-4)
    assert distortion(moved, reference(out, detect(out))) == pytest.approx(expected, rel=1e-4)


def test_a_collapsed_network_has_a_finite_distortion() -> None:
    out = outputs()
    dense = reference(out, detect(out))
    for value in (0.0, 1e30):
        assert 0 < distortion(torch.full_like(out, value), dense) < float("inf")

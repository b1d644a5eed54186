"""What few bits of one layer alone cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluators import bit_table
from evaluators.bit_table import MEASURED_BITS, extrapolated, measure_damage
from evaluators.demo import demo_dataset, demo_detector
from spaces.groups import analyse
from spaces.model import Detector


@pytest.fixture(scope="module")
def detector() -> Detector:
    return demo_detector()


def test_fewer_bits_do_more_damage_and_the_model_stays(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bit_table, "POSITIONS", 256)
    before = detector.digest
    network = analyse(detector, 96)
    images = demo_dataset("train", 3).squares(96).float() / 255
    table = measure_damage(detector, network, images)
    assert detector.digest == before
    assert table.shape == (len(network.layers), len(MEASURED_BITS))
    assert (table >= 0).all()
    # a bit halves the error and quarters its square; at five bits no layer alone destroys the model
    assert 8 < table[:, 0].sum() / table[:, 2].sum() < 32
    assert table[:, 2].max() < 0.5


def test_a_run_from_any_layer_on_is_the_run_of_the_whole(detector: Detector) -> None:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = bit_table._all_maps(detector.net, images)
        assert torch.equal(maps[-1], detector.net(images))
        for place in (0, 5, 14, 24):
            assert torch.equal(bit_table._run_from(detector.net, place, maps), maps[-1])


def test_other_widths_by_hand() -> None:
    measured = np.array([[0.8, 0.3, 0.1], [0.2, 0.3, 0.1]])  # 3, 4, 5 bits
    expected = np.array([[3.2, 0.8, 0.3, 0.1, 0.025], [1.2, 0.3, 0.3, 0.1, 0.025]])
    np.testing.assert_allclose(extrapolated(measured, [2, 3, 4, 5, 6]), expected)

"""Training of the demo detector: boxes follow the pixels, runs go on, weights load again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch

from evaluators.demo.train import Plan, Pool, _learning_rate, train
from spaces.model import load_detector


@pytest.fixture(scope="module")
def pool() -> Pool:
    """One image: a bright rectangle on black, its box known."""
    pool = Pool(1)
    pool.images[0] = 0
    pool.images[0, 40:120, 200:240] = 255
    pool.boxes[0] = np.array([[200.0, 40.0, 240.0, 120.0]])
    pool.classes[0] = np.array([3])
    return pool


@pytest.mark.parametrize("size_px", [160, 320])
def test_boxes_follow_turned_mirrored_and_resized_pixels(pool: Pool, size_px: int) -> None:
    batch = pool.batch(np.random.default_rng(0), 32, size_px)
    assert batch["img"].shape == (32, 3, size_px, size_px)
    assert batch["cls"].tolist() == [[3.0]] * 32
    assert batch["batch_idx"].tolist() == list(range(32))
    positions = set()
    for pixels, box in zip(batch["img"], batch["bboxes"], strict=True):
        rows, columns = np.nonzero(pixels[0].numpy() > 0.5)
        extent = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / size_px
        centre, size = (extent[:2] + extent[2:]) / 2, extent[2:] - extent[:2]
        np.testing.assert_allclose(box, [*centre, *size], atol=1 / size_px)
        positions.add(tuple(np.round(centre, 2)))
    assert len(positions) == 8  # every symmetry of the square occurs


def test_learning_rate_rises_then_falls_to_a_hundredth() -> None:
    rates = [_learning_rate(share) for share in np.linspace(0, 1, 101)]
    peak = int(np.argmax(rates))
    assert peak == 2
    assert rates == sorted(rates[: peak + 1]) + sorted(rates[peak + 1 :], reverse=True)
    assert rates[-1] == pytest.approx(rates[peak] / 100, rel=0.01)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make steps this small crawl on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _state(plan: Plan) -> dict[str, Any]:
    return torch.load(plan.checkpoint, weights_only=True)


@pytest.mark.usefixtures("one_thread")
def test_a_stopped_run_goes_on_and_its_weights_load(tmp_path: Path) -> None:
    plan = Plan(tmp_path / "weights.safetensors", minutes=1e-4, seed=1, batch=2, pool=2)
    train(plan)
    first = _state(plan)
    step, images_seen, elapsed_s = first["progress"]
    assert step == 1
    assert images_seen == 2
    assert elapsed_s > 60 * plan.minutes

    train(plan)  # nothing is left of the budget
    assert _state(plan)["progress"] == first["progress"]

    train(dataclasses.replace(plan, minutes=elapsed_s / 60 + 1e-4))
    last = _state(plan)
    assert last["progress"][0] == 2
    assert any(not torch.equal(first["ema"][name], now) for name, now in last["ema"].items())

    with safetensors.safe_open(plan.output, framework="pt") as file:
        assert json.loads(file.metadata()["provenance"])["images_seen"] == 4
    for name, stored in load_detector(plan.output).net.state_dict().items():
        torch.testing.assert_close(stored, last["ema"][name], rtol=1e-3, atol=1e-6)

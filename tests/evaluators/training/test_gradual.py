"""Channels that go step by step, down to a candidate with a quarter less and without a block."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluators.dataset import Dataset
from evaluators.dense import as_input
from evaluators.training.files import load_trained, save_trained
from evaluators.training.gradual import GONE_AT, GradualPruning
from evaluators.training.lsq import Lsq
from evaluators.training.method import Grids
from evaluators.training.trainer import Plan, Training
from spaces.candidate import Candidate
from spaces.compress import Ranking, compress
from spaces.groups import Network, analyse
from spaces.model import Detector
from spaces.quantization.calibrate import calibrate_activations
from spaces.saliency import rank
from tests.evaluators.training.conftest import SIZE

Parts = tuple[Network, Candidate, Ranking]
DROPPED = "model.6.m.2"


@pytest.fixture(scope="module")
def parts(teacher: Detector) -> Parts:
    network = analyse(teacher, SIZE)
    kept = tuple(
        (group.name, 0 if group.block == DROPPED else max(1, group.size * 3 // 4))
        for group in network.groups
    )
    return network, Candidate(SIZE, kept), rank(teacher, network, "l2")


def test_many_go_at_first_and_none_at_the_end(parts: Parts) -> None:
    network, candidate, _ = parts
    method = GradualPruning(*parts)
    counts = np.array([method.counts_at(step / 100) for step in range(101)])
    assert counts[0].tolist() == network.sizes.tolist()
    assert (np.diff(counts, axis=0) <= 0).all()
    assert counts[round(100 * GONE_AT)].tolist() == network.counts(candidate).tolist()
    removed = (counts[0] - counts).sum(1)
    assert removed[25] > 0.8 * removed[-1]


def test_what_is_cut_out_had_no_effect_any_more(
    parts: Parts, teacher: Detector, images: Dataset
) -> None:
    method = GradualPruning(*parts)
    training = Training(teacher, teacher, images, Plan(2, 1e-3, batch=6), [method])
    training.run_epoch()
    training.run_epoch()
    trained = training._net.eval()
    smaller = copy.deepcopy(trained)
    method.finish(smaller, Grids({}))
    expected = compress(teacher, *parts).net.state_dict()
    found = smaller.state_dict()
    assert {name: x.shape for name, x in found.items()} == {n: x.shape for n, x in expected.items()}
    x = as_input(images.squares(SIZE, slice(0, 2)))
    with torch.no_grad():
        before, after = trained(x), smaller(x)
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-2)


def test_with_few_bits_it_can_be_stopped_and_kept(
    parts: Parts, teacher: Detector, images: Dataset, tmp_path: Path
) -> None:
    network, candidate, _ = parts
    bits = {layer.name: (4, 8) for layer in network.of(candidate).layers[1:20]}
    scales = calibrate_activations(teacher, as_input(images.squares(SIZE)))

    def begin() -> Training:
        methods = [GradualPruning(*parts), Lsq(bits, scales)]
        return Training(teacher, teacher, images, Plan(3, 1e-3, batch=8), methods)

    straight, stopped = begin(), begin()
    for _ in range(3):
        straight.run_epoch()
    stopped.run_epoch()
    stopped.save(tmp_path / "training.ckpt")
    again = begin()
    again.load(tmp_path / "training.ckpt")
    again.run_epoch()
    again.run_epoch()
    trained = again.result()
    assert trained.detector.digest == straight.result().detector.digest
    assert trained.grids.bits == bits
    save_trained(trained, tmp_path / "w.safetensors")
    x = as_input(images.squares(SIZE, slice(0, 1)))
    kept = load_trained(tmp_path / "w.safetensors").simulated().net
    assert torch.equal(kept(x), trained.simulated().net(x))

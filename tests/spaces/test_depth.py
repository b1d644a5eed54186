"""Residual blocks that are dropped as a whole."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hw_models.cost import CostModel
from hw_models.device import load_profile
from hw_models.errors import InputError
from hw_models.onnx_reader import read_onnx
from spaces.candidate import Candidate
from spaces.compress import compress, mask
from spaces.export import export_onnx
from spaces.groups import Network, analyse
from spaces.model import Detector
from spaces.saliency import rank
from spaces.space import SearchSpace, bit_options, droppable, keep_levels, pattern_options

BACKBONE = [
    "model.2.m.0", "model.4.m.0", "model.4.m.1", "model.6.m.0", "model.6.m.1", "model.6.m.2",
    "model.8.m.0",
]  # fmt: skip


@pytest.fixture(scope="module")
def space(u_network: Network) -> SearchSpace:
    return SearchSpace(
        u_network,
        [320, 256],
        keep_levels(u_network),
        bit_options(u_network, [(16, 16), (8, 8)]),
        patterns=pattern_options(u_network, ["3ep"]),
        depth=droppable(u_network),
    )


def without(network: Network, *blocks: str) -> Candidate:
    """Drop some blocks, keep all else."""
    names = tuple((group.name, 0) for group in network.groups if group.block in blocks)
    assert len(names) == len(blocks)
    return Candidate(320, names)


def outputs(net: nn.Module) -> torch.Tensor:
    picture = torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return net(picture)


def test_blocks_with_a_shortcut_can_be_dropped(u_network: Network) -> None:
    assert list(droppable(u_network)) == BACKBONE  # those of the neck have no shortcut


def test_a_block_with_an_ignored_layer_stays(u_detector: Detector) -> None:
    network = analyse(u_detector, 320, ignore=["model.4.m.1.cv2", "re:^model.6.m.0.cv1"])
    assert set(BACKBONE) - set(droppable(network)) == {"model.4.m.1", "model.6.m.0"}


def test_a_dropped_block_hands_on_its_input(model: tuple[Detector, Network]) -> None:
    detector, network = model
    candidate, ranking = without(network, "model.4.m.0", "model.8.m.0"), rank(detector, network)
    expected = copy.deepcopy(detector.net)
    expected.get_submodule("model.4.m")[0] = nn.Identity()
    expected.get_submodule("model.8.m")[0] = nn.Identity()
    for smaller in (compress, mask):
        net = smaller(detector, network, candidate, ranking).net
        assert torch.equal(outputs(net), outputs(expected))


@pytest.mark.parametrize("seed", range(3))
def test_priced_is_what_was_made(space: SearchSpace, u_detector: Detector, seed: int) -> None:
    """The steps of a candidate are those of its network, traced again."""
    network = space.network
    genome = np.random.default_rng(seed).integers(0, space.upper + 1)
    candidate = replace(space.decode(genome), bits=(), patterns=())
    smaller = compress(u_detector, network, candidate, rank(u_detector, network))
    steps = analyse(smaller, candidate.imgsz).steps
    priced = space.workload(candidate).layers
    assert [step.name for step in priced] == [step.name for step in steps]
    assert [step.name for step in priced] == [step.name for step in network.of(candidate).steps]
    for made, step in zip(steps, priced, strict=True):
        assert (made.in_channels, made.out_channels) == (step.in_channels, step.out_channels)


def test_readers_are_those_of_the_smaller_network(u_detector: Detector, u_network: Network) -> None:
    candidate = without(u_network, "model.4.m.1", "model.6.m.0")
    smaller = compress(u_detector, u_network, candidate, rank(u_detector, u_network))
    assert u_network.of(candidate).readers == analyse(smaller, 320).readers


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_decode_and_encode(space: SearchSpace, data: st.DataObject) -> None:
    """What lies inside of dropped blocks makes no other candidate."""
    genome = np.array([data.draw(st.integers(0, upper)) for upper in space.upper])
    candidate = space.decode(genome)
    canonical = space.encode(candidate)
    assert canonical.tolist() == space.canonical(genome[None])[0].tolist()
    assert space.decode(canonical).digest == candidate.digest
    names = [variable.name for variable in space.variables]
    dropped = {names[v].removeprefix("depth:") for v in np.flatnonzero(genome)
               if names[v].startswith("depth:")}  # fmt: skip
    assert set(space.network.dropped(candidate)) == dropped
    for name, level, own in zip(names, canonical, genome, strict=True):
        inside = any(name.partition(":")[2].startswith(f"{block}.") for block in dropped)
        assert level == (0 if inside else own)


@pytest.mark.parametrize("target", ["jetson-tx2", "jetson-agx-xavier"])
def test_many_are_priced_as_each_alone(space: SearchSpace, target: str) -> None:
    genomes_NV = np.random.default_rng(0).integers(0, space.upper + 1, (40, len(space.upper)))
    model = CostModel(load_profile(target))
    batch = model.predict_batch(space.workloads(genomes_NV))
    alone = [model.predict(space.workload(space.decode(genome))) for genome in genomes_NV]
    for name in ("latency_ms", "low_ms", "high_ms", "energy_mj", "size_bytes", "macs"):
        expected = [getattr(cost, name) for cost in alone]
        np.testing.assert_allclose(getattr(batch, name), expected, rtol=1e-5)


def test_a_block_less_costs_less(space: SearchSpace) -> None:
    depth = [v for v, variable in enumerate(space.variables) if variable.name.startswith("depth:")]
    genomes_NV = np.zeros((len(depth) + 1, len(space.upper)), dtype=np.int64)
    for row, column in enumerate(depth, start=1):
        genomes_NV[row:, column] = 1  # one more a row
    costs = CostModel(load_profile("jetson-tx2")).predict_batch(space.workloads(genomes_NV))
    for values in (costs.latency_ms, costs.energy_mj, costs.size_bytes, costs.macs):
        assert (np.diff(values) < 0).all()


def test_the_file_costs_what_the_search_says(
    space: SearchSpace, u_detector: Detector, tmp_path: Path
) -> None:
    candidate = without(space.network, *BACKBONE)
    smaller = compress(u_detector, space.network, candidate, rank(u_detector, space.network))
    export_onnx(smaller, 320, tmp_path / "model.onnx")
    model = CostModel(load_profile("jetson-tx2"))
    searched = model.predict(space.workload(candidate))
    predicted = model.predict(read_onnx(tmp_path / "model.onnx").workload)
    assert predicted.latency_ms == pytest.approx(searched.latency_ms, rel=1e-3)
    assert predicted.macs == searched.macs


def test_other_groups_keep_a_channel(u_network: Network) -> None:
    with pytest.raises(InputError, match=r"model\.0 has 16 channels; expected to keep 1 to 16"):
        u_network.counts(Candidate(320, (("model.0", 0),)))


def test_unknown_blocks_are_refused(u_network: Network) -> None:
    with pytest.raises(InputError, match=r"Unknown residual block 'model\.13\.m\.0'"):
        SearchSpace(u_network, [320], depth=["model.13.m.0"])

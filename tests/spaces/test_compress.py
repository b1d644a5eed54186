import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.nn.modules import Conv, DWConv

from hw_models.errors import InputError
from hw_models.workload import DEPTHWISE
from spaces.candidate import Candidate
from spaces.compress import Ranking, compress, mask
from spaces.groups import Network, analyse
from spaces.model import Detector, load_detector
from spaces.saliency import rank
from spaces.space import SearchSpace, keep_levels

SIZES = (320, 416, 640)
Model = tuple[Detector, Network]


def shuffled(network: Network, seed: int) -> Ranking:
    rng = np.random.default_rng(seed)
    return {group.name: rng.permutation(group.size) for group in network.groups}


def drawn(network: Network, seed: int, imgsz: int = 320) -> Candidate:
    """Any number of channels from 1 to all, not only multiples of eight."""
    rng = np.random.default_rng(seed)
    kept = tuple((group.name, int(rng.integers(1, group.size + 1))) for group in network.groups)
    return Candidate(imgsz, kept)


def outputs(detector: Detector, imgsz: int) -> torch.Tensor:
    picture = torch.rand(1, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return detector.net(picture)


def assert_same(first: torch.Tensor, second: torch.Tensor) -> None:
    """Equal to 1e-4: boxes relative to the picture, of some hundred pixels, scores absolute."""
    boxes = (first[:, :4] - second[:, :4]).abs().max() / first[:, :4].abs().max()
    scores = (first[:, 4:] - second[:, 4:]).abs().max()
    assert max(boxes, scores) < 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_sliced_model_equals_masked_one(model: Model, seed: int) -> None:
    detector, network = model
    imgsz = SIZES[seed % 3]
    candidate, ranking = drawn(network, seed, imgsz), shuffled(network, seed)
    sliced = compress(detector, network, candidate, ranking)
    masked = mask(detector, network, candidate, ranking)
    assert sliced.imgsz == imgsz
    assert_same(outputs(sliced, imgsz), outputs(masked, imgsz))


def test_each_group_alone(model: Model) -> None:
    detector, network = model
    ranking, dense = shuffled(network, 0), outputs(detector, 320)
    for group in network.groups:
        candidate = Candidate(320, ((group.name, group.size * 3 // 8),))
        sliced = compress(detector, network, candidate, ranking)
        silenced = outputs(mask(detector, network, candidate, ranking), 320)
        assert_same(outputs(sliced, 320), silenced)
        assert not torch.allclose(silenced, dense), f"{group.name} does not matter"
        for imgsz, cells in ((416, 3549), (640, 8400)):
            boxes = outputs(sliced, imgsz)
            assert boxes.shape == (1, 84, cells * dense.shape[2] // 2100)
            assert boxes.isfinite().all()


def test_one_channel_of_each_group_is_enough(model: Model) -> None:
    detector, network = model
    candidate = Candidate(320, tuple((group.name, 1) for group in network.groups))
    sliced = compress(detector, network, candidate, shuffled(network, 0))
    assert outputs(sliced, 320).shape == outputs(detector, 320).shape


def test_keeping_everything_changes_no_bit(model: Model) -> None:
    detector, network = model
    same = compress(detector, network, Candidate(320), shuffled(network, 0))
    assert torch.equal(outputs(same, 320), outputs(detector, 320))
    assert same.digest == detector.digest


def test_workload_is_that_of_the_sliced_model(model: Model) -> None:
    """Shapes and multiply-accumulates, for random candidates, counted by torch itself."""
    detector, network = model
    space = SearchSpace(network, [320, 416], keep_levels(network))
    rng = np.random.default_rng(0)
    for genome in rng.integers(0, space.upper + 1, (3, len(space.upper))):
        candidate = space.decode(genome)
        workload = space.workload(candidate)
        sliced = compress(detector, network, candidate, shuffled(network, 0)).net
        for conv in workload.convs:
            module = sliced.get_submodule(conv.name)
            assert isinstance(module, nn.Conv2d)
            assert module.weight.shape == (conv.out_channels, conv.in_channels, *conv.kernel)
            assert (module.out_channels, module.in_channels) == module.weight.shape[:2]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            boxes = sliced(torch.zeros(1, 3, candidate.imgsz, candidate.imgsz))
        decoding = 16 * 4 * boxes.shape[2] if detector.kind == "u" else 0
        assert 2 * (workload.macs + decoding) == counter.get_total_flops()


def test_ops_of_the_workload_are_those_of_the_sliced_model(u_detector: Detector) -> None:
    network = analyse(u_detector, 320)
    candidate = drawn(network, 7)
    sliced = compress(u_detector, network, candidate, shuffled(network, 0))
    workload = SearchSpace(network, [320]).workload(candidate)
    assert workload.layers == analyse(sliced, 320).steps


def test_kept_channels_are_the_best_ranked_in_their_order(
    u_detector: Detector, u_network: Network
) -> None:
    order = np.array([5, 2, 9, *(n for n in range(16) if n not in (5, 2, 9))])
    ranking = {**shuffled(u_network, 0), "model.0": order}
    sliced = compress(u_detector, u_network, Candidate(320, (("model.0", 3),)), ranking)
    dense = u_detector.net.get_submodule("model.0.conv").weight
    assert torch.equal(sliced.net.get_submodule("model.0.conv").weight, dense[[2, 5, 9]])
    second = u_detector.net.get_submodule("model.1.conv").weight
    assert torch.equal(sliced.net.get_submodule("model.1.conv").weight, second[:, [2, 5, 9]])


def test_detector_is_not_changed_and_shares_nothing(
    u_detector: Detector, u_network: Network
) -> None:
    before = u_detector.digest
    sliced = compress(u_detector, u_network, drawn(u_network, 1), shuffled(u_network, 1))
    for tensor in (*sliced.net.parameters(), *sliced.net.buffers()):
        tensor.data.fill_(1)
    assert u_detector.digest == before


def test_sliced_model_trains_its_batch_norms(u_detector: Detector, u_network: Network) -> None:
    sliced = compress(u_detector, u_network, drawn(u_network, 1), shuffled(u_network, 1)).net
    with torch.no_grad():
        sliced.train()(torch.rand(2, 3, 64, 64))


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (Candidate(330), "Image size 330 does not fit"),
        (Candidate(320, (("nothing", 8),)), "Unknown channel group 'nothing'"),
        (Candidate(320, (("model.0", 17),)), "expected to keep 1 to 16 of them, got 17"),
        (Candidate(320, (("model.0", 0),)), "got 0"),
    ],
)
def test_candidates_that_do_not_fit_are_refused(
    u_detector: Detector, u_network: Network, candidate: Candidate, message: str
) -> None:
    for method in (compress, mask):
        with pytest.raises(InputError, match=message):
            method(u_detector, u_network, candidate, shuffled(u_network, 0))


@pytest.mark.parametrize("order", [None, np.arange(8), np.zeros(16, dtype=int)])
def test_rankings_that_do_not_fit_are_refused(
    u_detector: Detector, u_network: Network, order: np.ndarray | None
) -> None:
    ranking = dict(shuffled(u_network, 0))
    del ranking["model.0"]
    if order is not None:
        ranking["model.0"] = order
    with pytest.raises(InputError, match=r"does not order the 16 channels of group model\.0"):
        compress(u_detector, u_network, Candidate(320), ranking)


def test_compressing_is_fast(u_detector: Detector, u_network: Network) -> None:
    """About 25 ms of processor time; waiting for a shared core does not count."""
    candidate, ranking = drawn(u_network, 0), shuffled(u_network, 0)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        compress(u_detector, u_network, candidate, ranking)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.15


class WithDepthwise(nn.Module):
    """Four layers, the second depthwise: its channels are those of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Conv(3, 16, 3, 2)
        self.second = DWConv(16, 16, 3)
        self.third = Conv(16, 8, 1)
        self.head = nn.Conv2d(8, 6, 1)
        for block in (self.first, self.second, self.third):
            nn.init.uniform_(block.bn.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.third(self.second(self.first(x)))).flatten(2)


def test_depthwise_convolutions_follow_their_input() -> None:
    detector = Detector(WithDepthwise().requires_grad_(False), ("a", "b"), 32)
    detector.net.eval()
    network = analyse(detector, 32)
    assert network.groups[0].members == ("first.conv", "second.conv")
    candidate, ranking = Candidate(32, (("first", 5),)), rank(detector, network, "energy")
    sliced = compress(detector, network, candidate, ranking)
    assert sliced.net.get_submodule("second.conv").weight.shape == (5, 1, 3, 3)
    silenced = outputs(mask(detector, network, candidate, ranking), 32)
    assert torch.allclose(outputs(sliced, 32), silenced, atol=1e-5)
    space = SearchSpace(network, [32], keep_levels(network))
    assert space.workload(candidate).convs[1].groups == 5
    assert space.workloads(space.upper[None]).convs.groups == (1, DEPTHWISE, 1, 1)


@pytest.mark.parametrize("name", ["yolov5s.yaml", "yolov5m.yaml"])
def test_larger_models(name: str) -> None:
    detector = load_detector(name)
    network = analyse(detector, 64)
    candidate, ranking = drawn(network, 0, 64), rank(detector, network, "l2")
    sliced = compress(detector, network, candidate, ranking)
    assert_same(outputs(sliced, 64), outputs(mask(detector, network, candidate, ranking), 64))

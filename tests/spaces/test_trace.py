from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hw_models.errors import InputError
from hw_models.workload import ConvShape, OtherOp
from spaces.groups import Network
from spaces.model import Detector
from spaces.trace import IMAGE, TRACE_IMGSZ, trace


def dfl_macs(cells: int) -> int:
    """The distribution focal loss reduces 16 values for each of four sides of every box."""
    return 16 * 4 * cells


def test_convolutions_are_those_that_ran_in_their_order(model: tuple[Detector, Network]) -> None:
    detector, _ = model
    ran = []
    handles = [
        module.register_forward_hook(lambda *_, n=name: ran.append(n))
        for name, module in detector.net.named_modules()
        if isinstance(module, nn.Conv2d) and "dfl" not in name
    ]
    with torch.no_grad():
        detector.net(torch.zeros(1, 3, 64, 64))
    for handle in handles:
        handle.remove()
    assert [step.name for step in trace(detector.net).steps if isinstance(step, ConvShape)] == ran


def test_macs_agree_with_torchs_flop_counter(model: tuple[Detector, Network]) -> None:
    detector, _ = model
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        output = detector.net(torch.zeros(1, 3, TRACE_IMGSZ, TRACE_IMGSZ))
    macs = sum(step.macs for step in trace(detector.net).steps if isinstance(step, ConvShape))
    decoding = dfl_macs(output.shape[2]) if detector.kind == "u" else 0
    assert 2 * (macs + decoding) == counter.get_total_flops()


def test_other_ops_of_yolov5n(u_detector: Detector) -> None:
    ops = [step for step in trace(u_detector.net).steps if isinstance(step, OtherOp)]
    # 7 bottlenecks with shortcut; 8 C3, 4 joints and SPPF concatenate; each but the 6 last
    # of 75 convolutions has an activation.
    assert Counter(op.kind for op in ops) == {
        "activation": 69, "add": 7, "concat": 13, "resize": 2, "pool": 3, "decode": 3,
    }  # fmt: skip
    assert len({op.name for op in ops}) == len(ops)


def test_ops_have_the_shapes_of_the_model(u_detector: Detector) -> None:
    ops = {s.name: s for s in trace(u_detector.net).steps if isinstance(s, OtherOp)}
    assert ops["model.9.m.pool"] == OtherOp("model.9.m.pool", "pool", 128, 128, 8, 8, 8, 8)
    assert ops["model.9.concat"] == OtherOp("model.9.concat", "concat", 512, 512, 8, 8, 8, 8)
    assert ops["model.11.resize"] == OtherOp("model.11.resize", "resize", 128, 128, 8, 8, 16, 16)
    assert ops["model.2.m.0.add"] == OtherOp("model.2.m.0.add", "add", 16, 16, 64, 64, 64, 64)
    assert ops["decode.2"] == OtherOp("decode.2", "decode", 64 + 80, 84, 8, 8, 8, 8)


def test_convolutions_of_one_tensor_are_siblings(model: tuple[Detector, Network]) -> None:
    _, network = model
    siblings = {layer.name: layer.siblings for layer in network.layers}
    for number in (2, 4, 6, 8):  # both branches of a C3 read its input
        assert siblings[f"model.{number}.cv1.conv"] == siblings[f"model.{number}.cv2.conv"] == 2
        assert siblings[f"model.{number}.cv3.conv"] == 1
    assert siblings["model.0.conv"] == 1


def test_decoding_of_three_anchors_a_cell(classic_detector: Detector) -> None:
    decode = trace(classic_detector.net).steps[-3]
    assert decode == OtherOp("decode.0", "decode", 255, 3 * 84, 32, 32, 32, 32)


def test_sources_follow_concatenations(u_detector: Detector) -> None:
    traced = trace(u_detector.net)
    at = {step.name: index for index, step in enumerate(traced.steps)}
    written = traced.writes[at["model.9.cv1.conv"]]
    assert np.array_equal(traced.reads[at["model.9.cv2.conv"]], np.tile(written, 4))
    joined = [traced.writes[at["model.10.conv"]], traced.writes[at["model.6.cv3.conv"]]]
    assert np.array_equal(traced.reads[at["model.13.cv1.conv"]], np.concatenate(joined))
    assert set(traced.reads[0]) == {IMAGE}


def test_readers_are_the_convolutions_behind_an_op(u_detector: Detector) -> None:
    traced = trace(u_detector.net)
    at = {step.name: index for index, step in enumerate(traced.steps)}

    def readers(name: str) -> set[str]:
        return {traced.steps[index].name for index in traced.readers[at[name]]}

    assert readers("model.9.m.pool") == {"model.9.cv2.conv"}
    assert readers("model.11.resize") == {"model.13.cv1.conv", "model.13.cv2.conv"}
    assert readers("model.4.m.0.add") == {"model.4.m.1.cv1.conv", "model.4.cv3.conv"}
    assert readers("model.24.cv2.0.2") == set()


class Tiny(nn.Module):
    """A convolution, something in between, and boxes [1, 5, cells]."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.middle = middle
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.first(x))).flatten(2)


def test_focus_keeps_track_of_the_picture() -> None:
    class Focus(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            halves = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
            return self.last(self.middle(self.first(torch.cat(halves, 1)))).flatten(2)

    net = Focus(nn.Identity())
    net.first = nn.Conv2d(12, 8, 3, 1, 1)
    traced = trace(net)
    assert [step.name for step in traced.steps] == ["concat", "first", "last", "decode.0"]
    assert list(traced.reads[1]) == [IMAGE] * 12


def test_functions_in_the_outermost_module_are_noted_too() -> None:
    class Functional(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            return self.last(nn.functional.silu(y + y + 1)).flatten(2)

    names = [step.name for step in trace(Functional(nn.Identity())).steps]
    assert names == ["first", "add", "activation", "last", "decode.0"]


def test_grouped_convolution_is_refused() -> None:
    with pytest.raises(InputError, match=r"middle has 2 groups for 8 channels"):
        trace(Tiny(nn.Conv2d(8, 8, 3, padding=1, groups=2)))


def test_convolution_that_runs_twice_is_refused() -> None:
    shared = nn.Conv2d(8, 8, 1)
    with pytest.raises(InputError, match="runs twice"):
        trace(Tiny(nn.Sequential(shared, shared)))

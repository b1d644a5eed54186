import copy

import numpy as np
import pytest
import torch
import torch_pruning
from torch import nn

from hw_models.errors import InputError
from hw_models.workload import ConvShape
from spaces.candidate import Candidate
from spaces.groups import FIXED, ChannelGroup, Network, analyse
from spaces.model import Detector, load_detector


def test_groups_of_yolov5n(u_network: Network) -> None:
    groups = {group.name: group for group in u_network.groups}
    assert len(groups) == 62
    assert groups["model.6.cv1"] == ChannelGroup(
        "model.6.cv1",
        64,
        ("model.6.cv1.conv", *(f"model.6.m.{number}.cv2.conv" for number in range(3))),
    )
    # Without shortcut, as in the neck, the last convolution of a bottleneck is free.
    assert groups["model.13.m.0.cv2"].members == ("model.13.m.0.cv2.conv",)


def test_groups_of_the_classic_yolov5n(classic_network: Network) -> None:
    assert len(classic_network.groups) == 50
    assert classic_network.ignored == ("model.24.m.0", "model.24.m.1", "model.24.m.2")
    assert classic_network.outputs == classic_network.ignored


def test_every_layer_is_in_one_group_or_fixed(model: tuple[Detector, Network]) -> None:
    _, network = model
    members = [name for group in network.groups for name in group.members]
    assert sorted([*members, *network.ignored]) == sorted(layer.name for layer in network.layers)


def test_channel_numbers_agree_with_torch_prunings_own_indices(
    model: tuple[Detector, Network],
) -> None:
    """Inputs come from our trace, couplings from the graph: its inputs must say the same."""
    detector, network = model
    net = copy.deepcopy(detector.net).requires_grad_(True)
    graph = torch_pruning.DependencyGraph().build_dependency(net, torch.zeros(1, 3, 64, 64))
    names = {module: name for name, module in net.named_modules()}
    read = {
        step.name: numbers
        for step, numbers in zip(network.steps, network.reads, strict=True)
        if isinstance(step, ConvShape)
    }
    claimed = {name: np.full_like(numbers, FIXED) for name, numbers in read.items()}
    for group, offset in zip(network.groups, network.offsets, strict=True):
        root = net.get_submodule(group.members[0])
        prune = torch_pruning.prune_conv_out_channels
        for item in graph.get_pruning_group(root, prune, list(range(group.size))):
            name = names.get(item.dep.target.module)
            if name in read and graph.is_in_channel_pruning_fn(item.dep.handler):
                claimed[name][item.idxs] = offset + np.array(item.root_idxs)
    for name, numbers in read.items():
        assert np.array_equal(claimed[name], numbers), name


def test_widths_of_the_dense_network(model: tuple[Detector, Network]) -> None:
    _, network = model
    reads, writes = (widths(network.sizes[None])[0] for widths in network.widths())
    assert list(reads) == [step.in_channels for step in network.steps]
    assert list(writes) == [step.out_channels for step in network.steps]


def test_widths_follow_concatenations_and_shortcuts(u_network: Network) -> None:
    kept = u_network.sizes.copy()
    names = [group.name for group in u_network.groups]
    kept[names.index("model.9.cv1")] = 40  # SPPF concatenates it four times
    kept[names.index("model.2.cv1")] = 8  # goes through a shortcut, then beside cv2
    at = {step.name: number for number, step in enumerate(u_network.steps)}
    reads, writes = (widths(kept[None])[0] for widths in u_network.widths())
    assert reads[at["model.9.cv2.conv"]] == 4 * 40
    assert writes[at["model.9.m.pool2"]] == 40
    assert writes[at["model.2.m.0.cv2.conv"]] == 8
    assert reads[at["model.2.m.0.add"]] == 8
    assert reads[at["model.2.cv3.conv"]] == 8 + 16


@pytest.mark.parametrize("imgsz", [64, 416, 640])
def test_shapes_at_other_sizes_are_the_real_ones(
    model: tuple[Detector, Network], imgsz: int
) -> None:
    detector, network = model
    seen = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, out, n=name: seen.update({n: out.shape[2:]}))
        for name, module in detector.net.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Upsample)) and "dfl" not in name
    ]
    with torch.no_grad():
        detector.net(torch.zeros(1, 3, imgsz, imgsz))
    for handle in handles:
        handle.remove()
    steps = {step.name.removesuffix(".resize"): step for step in network.steps_at(imgsz)}
    assert {name: (steps[name].out_h, steps[name].out_w) for name in seen} == seen
    assert network.steps_at(imgsz) == analyse(detector, imgsz).steps


@pytest.mark.parametrize("imgsz", [0, -32, 31, 330])
def test_sizes_that_do_not_fit_are_refused(
    u_detector: Detector, u_network: Network, imgsz: int
) -> None:
    with pytest.raises(InputError, match=f"Image size {imgsz} does not fit"):
        u_network.steps_at(imgsz)
    with pytest.raises(InputError, match="positive multiple of its largest stride 32"):
        analyse(u_detector, imgsz)


def test_analysis_leaves_the_detector_alone(u_detector: Detector) -> None:
    before = u_detector.digest
    analyse(u_detector, 320)
    assert u_detector.digest == before
    assert not any(parameter.requires_grad for parameter in u_detector.net.parameters())
    assert not any(module._forward_hooks for module in u_detector.net.modules())


@pytest.mark.parametrize(
    ("pattern", "ignored", "gone"),
    [
        ("model.0", {"model.0.conv"}, {"model.0"}),
        ("model.0.conv", {"model.0.conv"}, {"model.0"}),
        # One member of a shortcut's group is enough to fix it.
        ("model.4.m.1.cv2", {"model.4.m.1.cv2.conv"}, {"model.4.cv1"}),
        (
            r"re:^model\.(1|3)\.conv$",
            {"model.1.conv", "model.3.conv"},
            {"model.1", "model.3"},
        ),
        (
            "type:SPPF",
            {"model.9.cv1.conv", "model.9.cv2.conv"},
            {"model.9.cv1", "model.9.cv2"},
        ),
    ],
)
def test_ignored_layers_keep_their_channels(
    u_detector: Detector, u_network: Network, pattern: str, ignored: set[str], gone: set[str]
) -> None:
    network = analyse(u_detector, 320, [pattern])
    assert set(network.ignored) - set(u_network.ignored) == ignored
    names = {group.name for group in u_network.groups}
    assert {group.name for group in network.groups} == names - gone


def test_outputs_that_a_user_named_are_left_alone(u_detector: Detector) -> None:
    network = analyse(u_detector, 320, ["type:Detect"])
    assert network.outputs == ()
    assert "model.24.cv3.0.2" in network.ignored


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("model.99", "--ignore model.99 matches no convolution"),
        ("model", None),
        ("", "matches no convolution"),
        ("re:nothing", "matches no convolution"),
        ("type:Upsample", "matches no convolution"),
        ("re:(", "expected a regular expression behind re:"),
    ],
)
def test_ignoring_nothing_is_an_error(
    u_detector: Detector, pattern: str, message: str | None
) -> None:
    if message is None:
        assert analyse(u_detector, 320, [pattern]).groups == ()
        return
    with pytest.raises(InputError, match=message):
        analyse(u_detector, 320, [pattern])


def test_counts_of_a_candidate(u_network: Network) -> None:
    counts = u_network.counts(Candidate(320, (("model.1", 24),)))
    assert counts[1] == 24
    assert np.array_equal(np.delete(counts, 1), np.delete(u_network.sizes, 1))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ((("model.1", 33),), "Group model.1 has 32 channels; expected to keep 1 to 32"),
        ((("model.1", 0),), "got 0"),
        ((("model.99", 8),), "Unknown channel group 'model.99'"),
        ((("model.1", 8), ("model.1", 8)), "given 2 times"),
    ],
)
def test_counts_that_do_not_fit_are_refused(
    u_network: Network, kept: tuple[tuple[str, int], ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        u_network.counts(Candidate(320, kept))


@pytest.mark.parametrize(
    ("name", "groups"),
    # The m model has 7 bottlenecks more with shortcut (one group each) and 4 without (two each).
    [("yolov5s.yaml", 62), ("yolov5m.yaml", 62 + 7 + 2 * 4)],
)
def test_larger_models(name: str, groups: int) -> None:
    network = analyse(load_detector(name), 640)
    assert len(network.groups) == groups
    assert network.sizes.max() == {"yolov5s.yaml": 512, "yolov5m.yaml": 768}[name]

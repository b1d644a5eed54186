import copy
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn
from ultralytics.nn.modules import Conv

from hw_models.errors import InputError
from spaces.groups import Network
from spaces.model import Detector
from spaces.saliency import rank
from spaces.saliency.activation import activation, activation_mean, activation_std
from spaces.saliency.bn_gamma import bn_gamma
from spaces.saliency.energy import activation_energy, energy
from spaces.saliency.fisher import fisher
from spaces.saliency.fpgm import fpgm
from spaces.saliency.hrank import hrank
from spaces.saliency.lamp import lamp
from spaces.saliency.norm import l1, l2
from spaces.saliency.objectives import Objective, confidence_loss, random_projection
from spaces.saliency.taylor import taylor_activation, taylor_weight
from spaces.saliency.variational import information, variational


@pytest.fixture
def block() -> Conv:
    """Two channels of one input channel and a 1x1 kernel, to be computed by hand."""
    block = Conv(1, 2, 1).requires_grad_(False).eval()
    block.conv.weight[:] = torch.tensor([3.0, -1.0]).view(2, 1, 1, 1)
    block.bn.weight[:] = torch.tensor([-0.5, 2.0])
    block.bn.bias[:] = torch.tensor([-4.0, 1.0])
    return block


def test_norms_are_those_of_the_filters(block: Conv) -> None:
    block.conv = nn.Conv2d(4, 2, 1).requires_grad_(False)
    block.conv.weight[:] = torch.tensor([[1.0, -2, 2, 4], [0, 3, 0, -4]]).view(2, 4, 1, 1)
    assert l1(block).tolist() == [9, 7]
    assert l2(block).tolist() == [5, 5]


def test_bn_gamma_is_its_size(block: Conv) -> None:
    assert bn_gamma(block).tolist() == [0.5, 2.0]


def test_bn_gamma_refuses_a_model_without_scales(block: Conv) -> None:
    block.bn.weight[:] = 1.0005
    with pytest.raises(InputError, match=r"cannot order .* got 2 times 1.0005") as caught:
        bn_gamma(block)
    assert "use the criterion energy" in caught.value.hint


def test_energy_is_the_mean_square_of_the_activation(block: Conv) -> None:
    def integrand(z: float, mean: float, deviation: float) -> float:
        density = math.exp(-(((z - mean) / deviation) ** 2) / 2) / deviation / math.sqrt(math.tau)
        return (z / (1 + math.exp(-z))) ** 2 * density

    exact = [quad(integrand, -12, 12, args)[0] for args in ((-4.0, 0.5), (1.0, 2.0))]
    assert energy(block).tolist() == pytest.approx(exact, rel=1e-6)


def test_energy_of_relu_in_closed_form() -> None:
    """For mean 0, half of the distribution passes: E = deviation^2 / 2."""
    found = activation_energy(nn.ReLU(inplace=True), torch.zeros(2), torch.tensor([1.0, 3.0]))
    assert found.tolist() == pytest.approx([0.5, 4.5], rel=1e-6)


def pictures(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_members_of_a_group_have_the_same_say(u_detector: Detector, u_network: Network) -> None:
    """A shortcut's channels are written by two convolutions; the scale of one means nothing."""
    first, second = u_network.groups[2].members
    detector = copy.deepcopy(u_detector)
    detector.net.get_submodule(first).weight *= 1000.0
    scores = [
        (score / score.mean()).numpy()
        for score in (l2(u_detector.net.get_submodule(name[:-5])) for name in (first, second))
    ]
    expected = np.argsort(-(scores[0] + scores[1]), kind="stable")
    for model in (u_detector, detector):
        assert rank(model, u_network, "l2")["model.2.cv1"].tolist() == expected.tolist()


def test_silent_channels_come_last(u_detector: Detector, u_network: Network) -> None:
    detector = copy.deepcopy(u_detector)
    norm = detector.net.get_submodule("model.0.bn")
    norm.bias[3], norm.weight[3] = -12.0, 1.4  # a large gamma, but SiLU lets nothing through
    assert rank(detector, u_network, "energy")["model.0"][-1] == 3
    assert rank(detector, u_network, "bn-gamma")["model.0"][-1] != 3


def test_channels_that_all_score_nothing_keep_their_order(
    u_detector: Detector, u_network: Network
) -> None:
    detector = copy.deepcopy(u_detector)
    detector.net.get_submodule("model.0.conv").weight.zero_()
    assert rank(detector, u_network, "l1")["model.0"].tolist() == list(range(16))


def test_activation_is_the_mean_square_on_images(u_detector: Detector) -> None:
    images = pictures(11)  # in two batches, of 8 and 3
    block = u_detector.net.get_submodule("model.1")
    with torch.no_grad():
        maps = block(u_detector.net.get_submodule("model.0")(images))
    expected = maps.double().square().mean((0, 2, 3))
    assert torch.allclose(activation(u_detector.net, images)(block), expected, rtol=1e-5)
    assert not any(module._forward_hooks for module in u_detector.net.modules())


def test_expected_energy_is_close_to_the_measured_one(u_detector: Detector) -> None:
    """The batch norms of this model have the statistics of such pictures."""
    images = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    measured = activation(u_detector.net, images)
    for name in ("model.0", "model.3", "model.6.m.1.cv2"):
        block = u_detector.net.get_submodule(name)
        correlation = np.corrcoef(energy(block).numpy(), measured(block).numpy())[0, 1]
        assert correlation > 0.9, name


def test_fpgm_sums_the_distances_to_the_other_filters(block: Conv) -> None:
    block.conv = nn.Conv2d(2, 3, 1).requires_grad_(False)
    block.conv.weight[:] = torch.tensor([[0.0, 0], [3, 4], [3, 0]]).view(3, 2, 1, 1)
    assert fpgm(block).tolist() == [5 + 3, 5 + 4, 3 + 4]


def test_lamp_is_the_share_of_the_filters_at_least_as_strong(block: Conv) -> None:
    block.conv = nn.Conv2d(2, 4, 1).requires_grad_(False)
    block.conv.weight[:] = torch.tensor([[1.0, 1], [2, 0], [0, 0], [1, 1]]).view(4, 2, 1, 1)
    assert lamp(block).tolist() == [0.25, 1, 0, 0.25]
    block.conv.weight.zero_()
    assert lamp(block).tolist() == [0] * 4


def test_mean_spread_and_rank_of_activations(u_detector: Detector) -> None:
    images = pictures(9)
    block = u_detector.net.get_submodule("model.1")
    with torch.no_grad():
        maps = block(u_detector.net.get_submodule("model.0")(images))
    flat = maps.double().transpose(0, 1).flatten(1)
    for measure, expected in (
        (activation_mean, flat.abs().mean(1)),
        (activation_std, flat.std(1, correction=0)),
        (hrank, torch.linalg.matrix_rank(maps).double().mean(0)),
    ):
        assert torch.allclose(measure(u_detector.net, images)(block), expected, rtol=1e-4)


def test_confidence_loss_in_numbers() -> None:
    outputs = torch.zeros(2, 6, 3)
    outputs[:, 4] = torch.tensor([[0.5, 0.25, 1.0], [0.5, 0.5, 0.5]])
    expected = (math.log(2) + math.log(4)) / 3 + math.log(2)
    assert float(confidence_loss(outputs)) == pytest.approx(expected)


def test_squared_gradients_of_the_projection_are_its_curvature() -> None:
    """For one class, the Fisher information of a Bernoulli variable by p is 1 / (p (1 - p))."""
    outputs = torch.tensor([[8.0, 8, 4, 2, 0.2]]).view(1, 5, 1).requires_grad_(True)
    objective = random_projection(torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(objective(outputs), outputs)
    of_box = [0.2 / 4**2, 0.2 / 2**2] * 2  # the score over the squared size
    expected = [*of_box, 1 / (0.2 * 0.8)]
    assert gradient.square().flatten().tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["model.1", "model.6.m.1.cv2"])
def test_derivatives_are_those_of_gates(u_detector: Detector, name: str) -> None:
    """Against central differences, with a factor on one channel of a block's output."""
    image, channel, step = pictures(1), 3, 1e-2
    block = u_detector.net.get_submodule(name)

    def with_gate(objective: Objective, factor: float) -> float:
        gates = torch.ones(block.conv.out_channels)
        gates[channel] = factor
        hook = block.register_forward_hook(lambda _, __, y: y * gates[:, None, None])
        try:
            with torch.no_grad():
                return float(objective(u_detector.net(image).double()))
        finally:
            hook.remove()

    slope = (with_gate(confidence_loss, 1 + step) - with_gate(confidence_loss, 1 - step)) / 2 / step
    found = taylor_activation(u_detector.net, image)(block)[channel]
    assert float(found) == pytest.approx(abs(slope), rel=0.05)
    whole_filter = taylor_weight(u_detector.net, image)(block)
    assert (whole_filter > 0).all()


def test_variational_scores_follow_the_curvature(u_detector: Detector) -> None:
    """Nats grow with the curvature; where it has its mean, s (1 + s) = 1: the golden ratio."""
    block = u_detector.net.get_submodule("model.3")
    curvature = fisher(u_detector.net, pictures())(block)
    nats = information(u_detector.net, pictures())(block)
    assert torch.equal(nats.argsort(), curvature.argsort())
    golden = (1 + 5**0.5) / 2
    at_mean = np.interp(float(curvature.mean()), *(np.sort(x.numpy()) for x in (curvature, nats)))
    assert at_mean == pytest.approx(math.log1p(golden) / 2, rel=0.02)
    assert (variational(u_detector.net, pictures())(block) > 0).all()

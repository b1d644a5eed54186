from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.dataset import Dataset
from evaluators.demo import demo_detector
from evaluators.dense import as_input
from evaluators.training.drgs import SCALE, Drgs, DynamicGrid
from evaluators.training.files import load_trained, save_trained
from evaluators.training.lsq import LearnedGrid, Lsq
from evaluators.training.method import Method
from evaluators.training.nipq import Nipq, NoisyGrid, whole_bits
from evaluators.training.trainer import Plan, Training
from hw_models.errors import InputError
from spaces.export import export_onnx
from spaces.model import Detector
from spaces.onnx_detector import OnnxDetector
from spaces.quantization.calibrate import calibrate_activations
from spaces.quantization.calibrators import weight_scales
from spaces.quantization.grid import ActivationScales
from spaces.quantization.sharing import shared_inputs
from spaces.quantization.simulate import quantize

Bits = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def bits(student: Detector) -> Bits:
    names = [name for name in shared_inputs(student.net) if "dfl" not in name]
    return {name: (4, 8) if number % 2 else (8, 4) for number, name in enumerate(names)}


@pytest.fixture(scope="module")
def scales(student: Detector, images: Dataset) -> ActivationScales:
    return calibrate_activations(student, as_input(images.squares(student.imgsz)))


def test_the_gradient_of_a_step_is_that_of_the_paper() -> None:
    grid = LearnedGrid(torch.tensor(0.5), low=-4, high=3)
    x = torch.tensor([0.7, -0.3, 9.0, -9.0], requires_grad=True)
    y = grid(x)
    assert y.tolist() == [0.5, -0.5, 1.5, -2.0]
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    (y * weights).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 10.0, 0.0, 0.0]  # straight through inside, 0 outside
    # round(x/s) - x/s inside, the ends outside; times s for the logarithm
    by_hand = (1 - 1.4) * 1 + (-1 + 0.6) * 10 + 3 * 100 - 4 * 1000
    assert grid.log_steps.grad is not None
    assert float(grid.log_steps.grad) == pytest.approx(0.5 * by_hand, rel=1e-5)


def test_a_negative_step_mirrors_the_grid() -> None:
    grid = LearnedGrid(torch.tensor([0.5, -0.5]), low=-4, high=3)
    x = torch.tensor([[-3.0, 0.3, 3.0], [-3.0, 0.3, 3.0]]).view(2, 3, 1, 1)
    assert grid(x).flatten(1).tolist() == [[-2.0, 0.5, 1.5], [-1.5, 0.5, 2.0]]


@pytest.mark.parametrize("method", [Lsq, Drgs])
def test_a_training_starts_from_the_numbers_that_were_rounded(method: type[Lsq]) -> None:
    net = copy.deepcopy(demo_detector().net)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data[::3] *= -1  # mirrors the grids of these rows
    names = [name for name, m in net.named_modules() if isinstance(m, torch.nn.Conv2d)][:-1]
    bits = dict.fromkeys(names, (3, 16))
    quantize(net, bits)
    before = {name: net.get_submodule(name).weight.detach().clone() for name in names}
    method(bits).install(net)
    for name in names:
        found = net.get_submodule(name).weight
        torch.testing.assert_close(found, before[name], rtol=1e-5, atol=0)


def test_nipq_noise_is_as_large_as_rounding_and_ends_in_it() -> None:
    torch.manual_seed(0)
    grid = NoisyGrid(torch.tensor(0.1), 4, extra=1, amount=1.0)
    x = torch.rand(10_000) * 1.2 - 0.6
    with torch.no_grad():
        noisy = grid.train()(x) - x
        rounded = grid.eval()(x) - x
    assert float(noisy.std()) == pytest.approx(float(rounded.std()), rel=0.05)
    assert abs(float((noisy * rounded).mean())) < 0.1 * float(rounded.var())  # independent
    grid.fixed_bits.fill_(4)
    assert torch.allclose(grid.train()(x) - x, rounded, atol=1e-6)
    assert len(grid(x).unique()) <= 16


def test_nipq_bits_have_a_gradient_towards_less_noise() -> None:
    torch.manual_seed(0)
    grid = NoisyGrid(torch.tensor(0.1), 4, extra=1, amount=1.0)
    x = torch.rand(1000) * 1.2 - 0.6
    (grid.train()(x) - x).square().sum().backward()
    assert grid.theta.grad is not None
    assert float(grid.theta.grad) < 0  # more bits, less error


def test_nipq_widths_move_by_bits_in_a_short_training() -> None:
    torch.manual_seed(0)
    grid = NoisyGrid(torch.tensor(0.1), 4, extra=1, amount=1.0).train()
    optimizer = torch.optim.AdamW(grid.parameters(), 1e-3, weight_decay=0.0)
    x = torch.rand(1000) * 1.2 - 0.6
    for _ in range(30):
        optimizer.zero_grad()
        (grid(x) - x).square().sum().backward()
        optimizer.step()
    assert float(grid.bits.detach()) > 5


def test_drgs_rounds_where_a_weight_went_and_scales_its_gradient() -> None:
    weight = torch.tensor([0.44, 0.44, 0.1, 3.0]).view(1, 4, 1, 1)  # steps of 1: 3 bits, top 3
    grid = DynamicGrid(weight, torch.ones(1), 3).train()
    grid.log_steps.data.zero_()
    assert grid(weight).flatten().tolist() == [0, 0, 0, 3]  # nothing moved yet
    moved = weight + torch.tensor([0.01, -0.01, 0.01, 0.01]).view(1, 4, 1, 1)
    grid.note(moved)
    assert grid(moved).flatten().tolist() == [1, 0, 0, 3]
    assert grid.eval()(moved).flatten().tolist() == [0, 0, 0, 3]  # as in the file
    moved.requires_grad_(True)
    grid.train()(moved).sum().backward()
    assert moved.grad is not None
    distances = torch.tensor([0.45 - 1, 0.43, 0.11])
    assert torch.allclose(moved.grad.flatten()[:3], 1 + SCALE * distances, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(2, 8), st.integers(1, 1000), st.integers(2, 8)), min_size=1, max_size=8
    )
)
def test_whole_bits_keep_the_budget(layers: list[tuple[float, int, int]]) -> None:
    wanted, amounts, asked = (
        {str(i): float(layer[part]) for i, layer in enumerate(layers)} for part in range(3)
    )
    found = whole_bits(wanted, amounts, asked)
    assert all(2 <= width <= 8 for width in found.values())
    used = sum(amounts[i] * found[i] for i in found)
    assert used <= sum(amounts[i] * asked[i] for i in found) * (1 + 1e-6)


@pytest.mark.parametrize("method", [Lsq, Nipq, Drgs])
def test_the_file_computes_what_was_trained(
    method: type[Method],
    student: Detector,
    teacher: Detector,
    images: Dataset,
    bits: Bits,
    scales: ActivationScales,
    tmp_path: Path,
) -> None:
    quantiser = method(bits, scales)  # type: ignore[call-arg]
    training = Training(student, teacher, images, Plan(4, batch=12), [quantiser])
    for _ in range(4):
        training.run_epoch()
    trained = training.result()
    assert trained.grids.bits.keys() == bits.keys()
    for name, (width, _) in trained.grids.bits.items():
        weight = trained.detector.net.get_submodule(name).weight
        assert isinstance(weight, torch.nn.Parameter)
        steps = weight_scales(weight, width).view(-1, 1, 1, 1)
        assert ((weight / steps) - (weight / steps).round()).abs().max() < 1e-3
    export_onnx(
        trained.detector, student.imgsz, tmp_path / "m.onnx", trained.grids.bits,
        trained.grids.scales,
    )  # fmt: skip
    x = as_input(images.squares(student.imgsz, slice(0, 1)))
    expected = trained.simulated().net(x)
    found = torch.from_numpy(OnnxDetector(tmp_path / "m.onnx")(x.contiguous().numpy()))
    assert (found - expected).abs().mean() < 0.02 * expected.abs().mean()
    if method is Nipq:
        for half in (0, 1):  # the budget of bits is kept
            amounts = {
                name: student.net.get_submodule(name).weight.numel() if half == 0 else 1  # type: ignore[operator, union-attr]
                for name in bits
            }
            used = sum(amounts[name] * trained.grids.bits[name][half] for name in bits)
            assert used <= sum(amounts[name] * bits[name][half] for name in bits) * (1 + 1e-6)

    save_trained(trained, tmp_path / "w.safetensors")
    again = load_trained(tmp_path / "w.safetensors")
    assert again.detector.digest == trained.detector.digest
    assert again.grids == trained.grids
    assert torch.equal(again.simulated().net(x), expected)


def test_few_bits_are_trained_better_than_they_are_rounded(
    teacher: Detector, images: Dataset
) -> None:
    """The distance from the dense model falls below that of post-training rounding."""
    names = [name for name in shared_inputs(teacher.net) if "dfl" not in name]
    bits = dict.fromkeys(names, (4, 8))
    x = as_input(images.squares(teacher.imgsz))
    scales = calibrate_activations(teacher, x)
    training = Training(teacher, teacher, images, Plan(4, 5e-4, batch=8), [Lsq(bits, scales)])
    before = training.result().simulated()
    for _ in range(4):
        training.run_epoch()
    after = training.result().simulated()
    expected = teacher.net(x)
    errors = [float((d.net(x) - expected)[:, 4:].square().mean()) for d in (before, after)]
    assert errors[1] < 0.7 * errors[0], errors


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match=r"w\.safetensors cannot be read"):
        load_trained(path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("method", [Lsq, Nipq, Drgs])
def test_few_bits_can_be_trained_on_a_gpu(
    student: Detector,
    images: Dataset,
    bits: Bits,
    scales: ActivationScales,
    method: type[Lsq | Nipq],
) -> None:
    cuda = torch.device("cuda")
    training = Training(student, student, images, Plan(1), [method(bits, scales)], cuda)
    training.run_epoch()
    assert {x.device.type for x in training.averaged.state_dict().values()} == {"cuda"}
    trained = training.result()
    assert {x.device.type for x in trained.detector.net.state_dict().values()} == {"cpu"}

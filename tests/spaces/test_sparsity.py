"""Every sparsity pattern under one suite; OBS, the fit and the descent against brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hw_models.errors import InputError
from hw_models.workload import PATTERNS
from spaces.groups import Network
from spaces.model import Detector
from spaces.sparsity import adaprune, descent, obs
from spaces.sparsity.entries import DICTIONARY, Entries, candidates, in_nines
from spaces.sparsity.families import families
from spaces.sparsity.n_m import NofM
from spaces.sparsity.names import parse_pattern, parse_patterns
from spaces.sparsity.packing import pack, unpack
from spaces.sparsity.pattern import Pattern
from spaces.sparsity.sparsify import patterns_of, sparsify

NAMES = (
    "dense", "unstructured-0.3", "2:4", "1:4", "4:8", "block-0.5", "kernel-0.25", "2ep", "3ep",
)  # fmt: skip
SHAPES = ((8, 16, 3, 3), (12, 24, 1, 1), (5, 10, 1, 1), (4, 3, 3, 3), (7, 6, 1, 1))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hessian(features: int, seed: int = 1) -> Tensor:
    """Second moments of correlated features."""
    x_PF = random(4 * features, features, seed=seed) @ random(features, features, seed=seed + 1)
    return x_PF.T @ x_PF / len(x_PF)


def error(weight_OF: Tensor, sparse_OF: Tensor, hessian_FF: Tensor) -> Tensor:
    """What a change of the rows does to the outputs [O]."""
    change_OF = (weight_OF - sparse_OF).double()
    return torch.einsum("of,fg,og->o", change_OF, hessian_FF.double(), change_OF)


@pytest.mark.parametrize("name", NAMES)
class TestPattern:
    @pytest.fixture
    def pattern(self, name: str) -> Pattern:
        return parse_pattern(name)

    def test_it_has_its_name_and_a_price(self, pattern: Pattern, name: str) -> None:
        assert pattern.name == name
        assert pattern.priced_as in PATTERNS

    @pytest.mark.parametrize("shape", SHAPES)
    def test_masks_keep_what_was_promised(self, pattern: Pattern, shape: tuple[int, ...]) -> None:
        mask = pattern.mask(random(*shape).abs())
        assert mask.shape == shape
        assert mask.dtype == torch.bool
        promised = pattern.kept(shape[0], shape[1], shape[2:])
        whole_blocks = "block" not in pattern.name or shape[1] % 4 == 0
        assert mask.sum() == promised if whole_blocks else mask.sum() <= promised

    def test_a_large_layer_keeps_the_ratio(self, pattern: Pattern) -> None:
        kept = pattern.kept(128, 128, (3, 3)) / (128 * 128 * 9)
        assert kept == pytest.approx(pattern.keep_ratio, abs=1e-4)

    def test_many_layers_are_counted_as_one_by_one(self, pattern: Pattern) -> None:
        outputs, inputs = np.array([5, 8, 64]), np.array([10, 7, 32])
        for kernel in ((1, 1), (3, 3)):
            each = [pattern.kept(int(o), int(i), kernel) for o, i in zip(outputs, inputs, strict=1)]
            assert np.array_equal(pattern.kept(outputs, inputs, kernel), each)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_masking_twice_is_masking_once(self, pattern: Pattern, shape: tuple[int, ...]) -> None:
        weight = random(*shape)
        once = sparsify(weight, pattern)
        assert torch.equal(sparsify(once, pattern), once)
        assert torch.equal(once[once != 0], weight[once != 0])

    def test_the_largest_of_a_layer_is_kept(self, pattern: Pattern) -> None:
        importance = random(8, 16, 3, 3).abs()
        importance[3, 5, 1, 1] = 100.0
        assert pattern.mask(importance)[3, 5, 1, 1]

    def test_no_mask_of_a_seed_keeps_more(self, pattern: Pattern) -> None:
        importance = random(4, 8, 3, 3).abs()
        best = importance[pattern.mask(importance)].sum()
        for seed in range(1, 20):
            other = pattern.mask(random(4, 8, 3, 3, seed=seed).abs())
            assert importance[other].sum() <= best + 1e-4

    @pytest.mark.parametrize("shape", SHAPES)
    def test_packed_weights_come_back(self, pattern: Pattern, shape: tuple[int, ...]) -> None:
        sparse = sparsify(random(*shape), pattern)
        packed = pack(sparse, pattern, "float32")
        assert torch.equal(unpack(packed), sparse)
        half = pack(sparse, pattern, "float16")
        assert torch.equal(unpack(half), sparse.half().float())
        assert packed.size_bytes - half.size_bytes == 2 * pattern.mask(sparse**2).sum()

    def test_a_fit_is_never_worse_than_leaving_the_weights(self, pattern: Pattern) -> None:
        for shape in ((8, 16, 3, 3), (12, 25, 1, 1)):
            weight, hessian_FF = random(*shape), hessian(shape[1] * shape[2] * shape[3])
            fitted = sparsify(weight, pattern, hessian_FF)
            assert (fitted != 0).sum() <= pattern.kept(shape[0], shape[1], shape[2:])
            assert torch.equal(fitted, fitted * pattern.mask(fitted**2))
            left = error(weight.flatten(1), sparsify(weight, pattern).flatten(1), hessian_FF)
            made_up = error(weight.flatten(1), fitted.flatten(1), hessian_FF)
            assert made_up.sum() <= left.sum() + 1e-6

    def test_covariances_of_channels_do(self, pattern: Pattern) -> None:
        weight, hessian_II = random(8, 16, 3, 3), hessian(16)
        fitted = sparsify(weight, pattern, hessian_II)
        assert (fitted != 0).sum() <= pattern.kept(8, 16, (3, 3))
        if pattern.name == "dense":
            torch.testing.assert_close(fitted, weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "wrong", ["4ep", "0:4", "4:4", "5:4", "block", "unstructured-1.5", "rows-0.5", "2EP", ""]
)
def test_unknown_names_are_refused(wrong: str) -> None:
    with pytest.raises(InputError, match=r"Unknown sparsity pattern.*2ep"):
        parse_pattern(wrong)


def test_patterns_are_sorted_by_density() -> None:
    names = [pattern.name for pattern in parse_patterns(["dense", "2:4", "3ep", "2ep"])]
    assert names == ["2ep", "3ep", "2:4", "dense"]


@given(n=st.integers(1, 7), more=st.integers(1, 8), inputs=st.integers(1, 40))
def test_every_m_neighbours_have_at_most_n(n: int, more: int, inputs: int) -> None:
    pattern = NofM(n, n + more)
    mask = pattern.mask(random(3, inputs, 1, 2).abs()).int()
    for first in range(0, inputs, pattern.m):
        group = mask[:, first : first + pattern.m].sum(1)
        assert (group == min(n, inputs - first)).all()


def test_n_m_by_hand() -> None:
    importance = torch.tensor([4.0, 1.0, 3.0, 2.0, 1.0, 1.0, 9.0, 8.0]).view(1, 8, 1, 1)
    assert NofM(2, 4).mask(importance).flatten().tolist() == [1, 0, 1, 0, 0, 0, 1, 1]


def test_entry_patterns_are_those_of_the_paper() -> None:
    assert len(candidates(2)) == 20  # 12 pairs side by side and 8 across a corner
    assert len(candidates(3)) == 21
    for count in (2, 3):
        for entry in candidates(count):
            rows, columns = np.divmod(entry, 3)
            assert len(entry) == count
            if count == 2:
                assert max(abs(rows[0] - rows[1]), abs(columns[0] - columns[1])) == 1


def test_a_kernel_takes_the_pattern_that_keeps_most() -> None:
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 0] = torch.tensor([5.0, 4.0, 0.0])
    kernel[0, 0, 2, 2] = 9.0  # the largest, but with no large neighbour
    assert Entries(2).mask(kernel**2)[0, 0, 2, 2]
    kernel[0, 0, 2, 2] = 6.0
    assert Entries(2).mask(kernel**2)[0, 0, 0].tolist() == [True, True, False]


def test_1x1_weights_are_kernels_nine_by_nine() -> None:
    weight = random(6, 20, 1, 1)
    pattern = Entries(3)
    mask = pattern.mask(weight**2)
    as_kernels = pattern.mask(in_nines(weight).view(-1, 1, 3, 3) ** 2)
    assert torch.equal(in_nines(mask), as_kernels.flatten(1))
    assert not mask.flatten()[len(in_nines(mask)) * 9 :].any()
    packed = pack(weight * mask, pattern)
    assert torch.equal(unpack(packed) != 0, mask)


def test_a_learnt_pattern_has_what_is_used_most() -> None:
    weight = torch.zeros(4, 4, 3, 3)
    weight[:, :3, 0, :2], weight[:, 3:, 2, 1:] = 1.0, 1.0
    learnt = Entries(2).learnt(weight**2)
    assert len(learnt.patterns) == DICTIONARY
    assert {(0, 1), (7, 8)} <= set(learnt.patterns)
    assert learnt.learnt(weight**2) == learnt


def brute_force(row_F: Tensor, hessian_FF: Tensor, count: int) -> tuple[Tensor, float]:
    """The best row with `count` weights removed, by trying all masks."""
    best, least = row_F, torch.inf
    for removed in combinations(range(len(row_F)), count):
        kept = [f for f in range(len(row_F)) if f not in removed]
        candidate = torch.zeros_like(row_F)
        target = hessian_FF[kept] @ row_F
        candidate[kept] = torch.linalg.solve(hessian_FF[kept][:, kept], target)
        loss = float(error(row_F[None], candidate[None], hessian_FF))
        if loss < least:
            best, least = candidate, loss
    return best, least


def test_obs_removes_what_brute_force_would() -> None:
    for seed in range(20):
        row_F, hessian_FF = random(1, 6, seed=seed), hessian(6, seed=seed + 100)
        best, least = brute_force(row_F[0], hessian_FF, 1)
        torch.testing.assert_close(obs.remove(row_F, hessian_FF, 1)[0], best, rtol=1e-3, atol=1e-4)
        predicted = float(obs.importance(row_F, hessian_FF).min())
        assert predicted == pytest.approx(least, rel=1e-2, abs=1e-6)


def test_obs_leaves_the_best_weights_for_its_mask() -> None:
    weight_OF, hessian_FF = random(4, 10), hessian(10)
    for count in (1, 4, 9):
        removed = obs.remove(weight_OF, hessian_FF, count)
        assert ((removed == 0).sum(1) == count).all()
        fitted = adaprune.fit(weight_OF, removed != 0, hessian_FF)
        torch.testing.assert_close(removed, fitted, rtol=1e-3, atol=1e-3)
    assert (obs.remove(weight_OF, hessian_FF, 10) == 0).all()


def test_without_correlation_obs_removes_the_smallest() -> None:
    weight_OF = random(3, 8)
    removed = obs.remove(weight_OF, torch.eye(8), 5)
    assert torch.equal(removed != 0, weight_OF.abs() >= weight_OF.abs().sort().values[:, 5:6])
    assert torch.equal(removed[removed != 0], weight_OF[removed != 0])


def test_rows_with_different_masks_are_fitted_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight_OF, hessian_FF = random(7, 12), hessian(12)
    mask_OF = random(7, 12, seed=5) > 0
    mask_OF[2] = False
    together = adaprune.fit(weight_OF, mask_OF, hessian_FF)
    monkeypatch.setattr(adaprune, "LARGEST_BATCH", 1)
    alone = adaprune.fit(weight_OF, mask_OF, hessian_FF)
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    for row, mask, fitted in zip(weight_OF, mask_OF, together, strict=True):
        expected = torch.linalg.solve(hessian_FF[mask][:, mask], hessian_FF[mask] @ row)
        torch.testing.assert_close(fitted[mask], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (9, 18, 1, 1), (11, 13, 1, 1), (20, 6, 1, 1)])
def test_the_descent_lowers_the_error_and_keeps_the_pattern(shape: tuple[int, ...]) -> None:
    weight, pattern = random(*shape), Entries(3)
    rows, hessian_FF = weight.flatten(1), hessian(weight[0].numel())
    start = pattern.mask(weight**2).flatten(1)
    chosen = descent.choose(rows, start, hessian_FF, pattern.masks())
    before = error(rows, adaprune.fit(rows, start, hessian_FF), hessian_FF).sum()
    after = error(rows, adaprune.fit(rows, chosen, hessian_FF), hessian_FF).sum()
    assert after < before
    assert torch.equal(pattern.mask(chosen.view(shape).float()).flatten(1), chosen)


def test_the_descent_of_one_kernel_is_the_best_pattern() -> None:
    pattern = Entries(2)
    for seed in range(10):
        row, hessian_FF = random(1, 9, seed=seed), hessian(9, seed=seed + 50)
        start = pattern.mask(row.view(1, 1, 3, 3) ** 2).flatten(1)
        chosen = descent.choose(row, start, hessian_FF, pattern.masks())
        losses = [
            float(error(row, adaprune.fit(row, mask[None], hessian_FF), hessian_FF))
            for mask in pattern.masks()
        ]
        assert torch.equal(chosen[0], pattern.masks()[int(np.argmin(losses))])


def test_children_have_one_parent(u_network: Network) -> None:
    head_of = families(u_network)
    assert set(head_of) == {layer.name for layer in u_network.layers}
    assert head_of["model.0.conv"] == "model.0.conv"
    assert head_of["model.1.conv"] == "model.0.conv"
    assert head_of["model.2.cv1.conv"] == "model.0.conv"
    assert head_of["model.2.m.0.cv2.conv"] == "model.0.conv"
    assert head_of["model.2.cv3.conv"] == "model.2.cv3.conv"  # reads two, and begins a family
    assert head_of["model.9.cv2.conv"] == head_of["model.9.cv1.conv"]  # pools are no layers


def test_children_inherit_the_patterns_of_their_parent(
    u_detector: Detector, u_network: Network
) -> None:
    layers = ["model.1.conv", "model.2.cv1.conv", "model.2.cv3.conv"]
    chosen = patterns_of(u_detector.net, u_network, {name: "3ep" for name in layers})
    assert list(chosen) == layers
    assert chosen["model.2.cv1.conv"] == chosen["model.1.conv"]
    assert chosen["model.2.cv3.conv"] != chosen["model.1.conv"]
    weight = u_detector.net.get_submodule("model.1.conv").weight.detach()
    assert chosen["model.1.conv"] == Entries(3).learnt(weight**2)


@settings(max_examples=20, deadline=None)
@given(outputs=st.integers(1, 9), inputs=st.integers(1, 30), name=st.sampled_from(NAMES))
def test_any_1x1_layer_has_any_pattern(outputs: int, inputs: int, name: str) -> None:
    weight = random(outputs, inputs, 1, 1)
    fitted = sparsify(weight, parse_pattern(name), hessian(inputs))
    assert fitted.isfinite().all()
    assert (fitted != 0).sum() <= parse_pattern(name).kept(outputs, inputs, (1, 1))

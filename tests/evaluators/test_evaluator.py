from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluators.dataset import load_dataset
from evaluators.demo import demo_dataset, demo_detector
from evaluators.evaluator import PROXY_IMAGES, RESTORATIONS, SUBSET_IMAGES, Evaluator
from evaluators.score import Failed, Score
from hw_models.errors import InputError
from spaces.candidate import Candidate
from spaces.compress import compress
from spaces.formats import FORMATS
from spaces.groups import Network, analyse
from spaces.model import Detector, load_detector
from spaces.onnx_detector import OnnxDetector
from spaces.saliency import rank

SIZE = 96  # of the demo's 320: quick, and it still sees something


@pytest.fixture(scope="module")
def parts() -> tuple[Detector, Network]:
    detector = demo_detector()
    return detector, analyse(detector, SIZE)


def make(parts: tuple[Detector, Network], images: int = SUBSET_IMAGES + 3) -> Evaluator:
    # a copy: some tests damage the network
    detector, network = pickle.loads(pickle.dumps(parts))  # noqa: S301 - our own bytes
    return Evaluator(
        detector,
        network,
        rank(detector, network),
        demo_dataset("train", 3),
        demo_dataset("val", images),
    )


def pruned(network: Network, keep: float = 0.75) -> Candidate:
    return Candidate(SIZE, tuple((g.name, max(1, int(g.size * keep))) for g in network.groups))


def few_bits(network: Network, weight: int, act: int) -> Candidate:
    return Candidate(SIZE, bits=tuple((layer.name, weight, act) for layer in network.layers))


def test_dense_is_without_distortion(parts: tuple[Detector, Network]) -> None:
    score = make(parts).evaluate(Candidate(SIZE), "proxy")
    assert score == Score(None, None, 0.0, 1.0, PROXY_IMAGES, "proxy")
    assert isinstance(score, Score)
    assert score.seconds > 0


@pytest.mark.parametrize(
    ("images", "rung", "looked_at"),
    [
        (5, "proxy", 5),
        (40, "proxy", PROXY_IMAGES),
        (40, "subset", SUBSET_IMAGES),
        (40, "full", 40),
        (5, "full", 5),
    ],
)
def test_rungs_look_at_their_images(
    parts: tuple[Detector, Network], images: int, rung: str, looked_at: int
) -> None:
    score = make(parts, images).evaluate(Candidate(SIZE), rung)
    assert isinstance(score, Score)
    assert score.images == looked_at
    assert (score.map50_95 is None) == (rung == "proxy")


def test_scores_do_not_depend_on_what_came_before(parts: tuple[Detector, Network]) -> None:
    network = parts[1]
    candidates = [pruned(network), few_bits(network, 4, 8), Candidate(SIZE), Candidate(64)]
    one = make(parts)
    first = [one.evaluate(c, rung) for c in candidates for rung in ("subset", "proxy")]
    again = [one.evaluate(c, rung) for c in candidates for rung in ("subset", "proxy")]
    assert first == again
    other = make(parts)
    backwards = [other.evaluate(c, r) for c in candidates[::-1] for r in ("proxy", "subset")]
    assert backwards[::-1] == first


def test_a_dense_candidate_builds_the_dense_network(parts: tuple[Detector, Network]) -> None:
    evaluator = make(parts)
    network = parts[1]
    for candidate in (Candidate(SIZE), pruned(network, 1.0), few_bits(network, 16, 32)):
        built = evaluator.build(candidate).net.state_dict()
        assert all(torch.equal(built[name], t) for name, t in parts[0].net.state_dict().items())


def test_an_exported_file_scores_like_its_candidate(
    parts: tuple[Detector, Network], tmp_path: Path
) -> None:
    evaluator = make(parts)
    kept = pruned(parts[1]).kept
    bits = few_bits(parts[1], 8, 8).bits
    candidate = Candidate(SIZE, kept, bits)
    run = OnnxDetector(FORMATS["onnx-tensorrt"].write(evaluator.compressed(candidate), tmp_path))

    def forward(images: torch.Tensor) -> torch.Tensor:
        outputs = [run(image[None].contiguous().numpy()) for image in images]
        return torch.from_numpy(np.concatenate(outputs))

    exported = evaluator.evaluate_forward(forward, SIZE)
    score = evaluator.evaluate(candidate, "full")
    assert isinstance(exported, Score)
    assert isinstance(score, Score)
    assert exported.distortion == pytest.approx(score.distortion, rel=0.02)
    assert exported.map50_95 == pytest.approx(score.map50_95, abs=0.01)


def test_a_block_less_is_made_up_for_on_every_rung(parts: tuple[Detector, Network]) -> None:
    detector, network = parts
    inside = {group.block: group.name for group in network.groups}["model.4.m.1"]
    bare = Candidate(SIZE, ((inside, 0),))
    candidate = replace(bare, bits=few_bits(network.of(bare), 8, 8).bits)
    evaluator = make(parts)
    net = compress(detector, network, bare, rank(detector, network)).net
    unrestored = evaluator.evaluate_forward(net, SIZE)
    assert isinstance(unrestored, Score)
    for rung in ("proxy", "subset", "full"):
        score = evaluator.evaluate(candidate, rung)
        assert isinstance(score, Score)
        assert score.distortion < 0.9 * unrestored.distortion


@pytest.fixture
def damaged(parts: tuple[Detector, Network]) -> tuple[Evaluator, torch.nn.Module]:
    """An evaluator that knows its dense model, which a test then damages."""
    evaluator = make(parts, 5)
    evaluator.evaluate(pruned(parts[1]), "proxy")
    assert evaluator._at(SIZE).moments
    return evaluator, evaluator._detector.net


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_fail(
    damaged: tuple[Evaluator, torch.nn.Module], value: float
) -> None:
    evaluator, net = damaged
    with torch.no_grad():
        net.model[-1].cv3[0][2].bias[0] = value
    if value == float("inf"):  # a sigmoid makes a score of it
        with torch.no_grad():
            net.model[-1].cv2[0][2].bias[0] = value
    result = evaluator.evaluate(Candidate(SIZE), "proxy")
    assert isinstance(result, Failed)
    assert (result.kind, result.retryable) == ("non-finite", False)


def test_detections_everywhere_fail(damaged: tuple[Evaluator, torch.nn.Module]) -> None:
    evaluator, net = damaged
    with torch.no_grad():
        for head in net.model[-1].cv3:
            head[2].bias.fill_(9.0)
    result = evaluator.evaluate(Candidate(SIZE), "subset")
    assert isinstance(result, Failed)
    assert result.kind == "exploded"
    assert "100% of all places" in result.message


def test_no_detections_are_a_score(damaged: tuple[Evaluator, torch.nn.Module]) -> None:
    evaluator, net = damaged
    with torch.no_grad():
        for head in net.model[-1].cv3:
            head[2].bias.fill_(-20.0)
    result = evaluator.evaluate(Candidate(SIZE), "subset")
    assert isinstance(result, Score)
    assert (result.map50_95, result.map50) == (0.0, 0.0)


def test_a_network_that_sees_nothing_is_known_early(parts: tuple[Detector, Network]) -> None:
    blind = Candidate(SIZE, pruned(parts[1], 0.1).kept)
    score = make(parts).evaluate(blind, "subset")
    assert isinstance(score, Score)
    assert (score.agreement, score.images) == (0.0, 8)
    assert score.map50_95 < 1e-3
    assert score.broken_layer in {layer.name for layer in parts[1].layers}
    full = make(parts, 20).evaluate(blind, "full")  # may be better: it is reconstructed
    assert isinstance(full, Score)
    assert (full.images, full.broken_layer) == (20, None)


def raising(error: Exception) -> object:
    def hook(*_: object) -> None:
        raise error

    return hook


def test_errors_of_a_model_fail_and_bugs_raise(
    damaged: tuple[Evaluator, torch.nn.Module], parts: tuple[Detector, Network]
) -> None:
    evaluator, net = damaged
    with net.model[-1].register_forward_pre_hook(raising(RuntimeError("out of memory"))):
        for candidate, restoration in (
            (Candidate(SIZE), "refit"),
            (pruned(parts[1]), "refit"),
            (pruned(parts[1]), "batch-norm"),
        ):
            evaluator._restoration = restoration
            result = evaluator.evaluate(candidate, "proxy")
            assert result == Failed("exception", "RuntimeError: out of memory")
    with (
        net.model[-1].register_forward_pre_hook(raising(TypeError("a bug"))),
        pytest.raises(TypeError, match="a bug"),
    ):
        evaluator.evaluate(Candidate(SIZE), "proxy")


def test_restorations_differ_and_the_default_is_the_best(
    parts: tuple[Detector, Network],
) -> None:
    detector, network = parts
    ranking = rank(detector, network)
    agreements = {
        restoration: Evaluator(
            detector,
            network,
            ranking,
            demo_dataset("train", 8),
            demo_dataset("val", 8),
            restoration,
        ).evaluate(Candidate(320, pruned(network, 0.9).kept), "proxy")
        for restoration in RESTORATIONS
    }
    assert all(isinstance(score, Score) for score in agreements.values())
    best = agreements["refit"]
    for other in ("none", "batch-norm"):
        assert best.agreement > agreements[other].agreement
        assert best.distortion < agreements[other].distortion
    with pytest.raises(AssertionError):
        Evaluator(detector, network, ranking, demo_dataset("train", 1), demo_dataset("val", 1), "?")


def test_candidates_that_do_not_fit_are_refused(parts: tuple[Detector, Network]) -> None:
    evaluator = make(parts, 5)
    with pytest.raises(InputError, match="Unknown channel group"):
        evaluator.evaluate(Candidate(SIZE, (("nothing", 8),)), "proxy")
    with pytest.raises(InputError, match="Image size 50"):
        evaluator.evaluate(Candidate(50), "proxy")
    with pytest.raises(KeyError, match="whole"):
        evaluator.evaluate(Candidate(SIZE), "whole")


def test_parts_travel(parts: tuple[Detector, Network]) -> None:
    """Everything an evaluator is made of is pickled on its way to an actor."""
    candidate = pruned(parts[1])
    evaluator = make(parts, 5)
    clone = pickle.loads(pickle.dumps(evaluator))  # noqa: S301 - our own bytes
    assert clone.evaluate(candidate, "subset") == evaluator.evaluate(candidate, "subset")


def test_on_a_trained_model_accuracy_follows_compression(shared: Path) -> None:
    detector = load_detector(shared / "weights" / "bccd_yolov5nu_320.pt")
    network = analyse(detector, 320)
    data = shared / "bccd" / "bccd.yaml"
    evaluator = Evaluator(
        detector,
        network,
        rank(detector, network),
        load_dataset(data, "train").subset(12),
        load_dataset(data, "val").subset(SUBSET_IMAGES),
    )
    candidates = [
        Candidate(320),
        few_bits(network, 8, 8),
        few_bits(network, 3, 8),
        Candidate(320, pruned(network, 0.9).kept),
    ]
    scores = [evaluator.evaluate(Candidate(320, c.kept, c.bits), "subset") for c in candidates]
    assert all(isinstance(score, Score) for score in scores)
    dense, int8, int3, slim = (np.array([s.map50_95, s.agreement]) for s in scores)
    assert dense[1] == 1
    assert 0.45 < dense[0] < 0.6
    assert int8[0] > 0.97 * dense[0]
    assert int8[1] > 0.8
    assert (int3 < int8).all()
    assert (slim < dense).all()
    assert scores[1].distortion < scores[2].distortion < 0.1

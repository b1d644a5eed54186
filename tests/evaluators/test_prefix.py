"""Candidates that are run from their first change on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import evaluators.evaluator
from evaluators.dataset import load_dataset
from evaluators.demo import demo_dataset, demo_detector
from evaluators.evaluator import Evaluator
from evaluators.prefix import FIRST, Maps, first_change, run_from
from evaluators.score import Score
from spaces.candidate import Candidate
from spaces.groups import Network, analyse
from spaces.model import Detector, load_detector
from spaces.saliency import rank

SIZE = 96
LAST = 24
MOVES = {
    "nothing": (Candidate(SIZE), LAST),
    "channels": (Candidate(SIZE, (("model.6.cv3", 100),)), 6),
    "channels of several": (Candidate(SIZE, (("model.4.cv1", 24),)), 4),
    "bits": (Candidate(SIZE, bits=(("model.9.cv1.conv", 8, 8), ("model.1.conv", 16, 16))), 9),
    "a pattern": (Candidate(SIZE, patterns=(("model.17.m.0.cv2.conv", "3ep"),)), 17),
    "a block": (Candidate(SIZE, (("model.8.m.0.cv1", 0),)), 8),
    "two things": (Candidate(SIZE, (("model.20.cv3", 100),), (("model.10.conv", 8, 8),)), 10),
    "the first": (Candidate(SIZE, (("model.0", 8),)), 0),
}


def make(detector: Detector, network: Network) -> Evaluator:
    ranking = rank(detector, network, "l2")
    return Evaluator(detector, network, ranking, demo_dataset("train", 4), demo_dataset("val", 20))


@pytest.fixture(scope="module")
def demo() -> tuple[Evaluator, Network]:
    detector = demo_detector()
    network = analyse(detector, SIZE)
    return make(detector, network), network


@pytest.mark.parametrize("move", MOVES)
def test_the_first_change_is_found(demo: tuple[Evaluator, Network], move: str) -> None:
    candidate, expected = MOVES[move]
    assert first_change(demo[1], candidate) == expected


@pytest.mark.parametrize("move", MOVES)
def test_scores_are_those_of_the_whole_network(
    demo: tuple[Evaluator, Network], move: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator, _ = demo
    candidate, start = MOVES[move]
    starts: list[int] = []

    def noting(net: nn.Module, start: int, maps: Maps) -> torch.Tensor:
        starts.append(start)
        return run_from(net, start, maps)

    monkeypatch.setattr(evaluators.evaluator, "run_from", noting)
    score = evaluator.evaluate(candidate, "proxy")
    assert starts == ([start] * 2 if start >= FIRST else [])  # sixteen images, eight at once
    monkeypatch.setattr(evaluators.evaluator, "FIRST", LAST + 1)
    whole = evaluator.evaluate(candidate, "proxy")
    assert isinstance(score, Score)
    assert isinstance(whole, Score)
    if move != "a block":  # for it norms before the change are matched, too: not to the last digit
        assert (score.distortion, score.agreement) == (whole.distortion, whole.agreement)
    assert score.distortion == pytest.approx(whole.distortion, rel=1e-3)
    assert score.agreement == pytest.approx(whole.agreement, abs=0.01)


def test_a_large_model_keeps_no_maps(
    demo: tuple[Evaluator, Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.dense.LARGEST_MAPS", 1000)
    detector = demo_detector()
    evaluator = make(detector, analyse(detector, SIZE))
    candidate, _ = MOVES["channels"]
    assert evaluator.evaluate(candidate, "proxy") is not None
    assert evaluator._at(SIZE).maps == []


def test_classic_models_too(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = load_detector(shared / "weights" / "yolov5n_v6.1_official.pt")
    network = analyse(detector, SIZE)
    images = load_dataset(shared / "coco" / "coco.yaml", "val").subset(16)
    evaluator = Evaluator(detector, network, rank(detector, network, "l2"), images, images)
    candidate = Candidate(SIZE, (("model.13.cv3", 96),))
    score = evaluator.evaluate(candidate, "proxy")
    monkeypatch.setattr(evaluators.evaluator, "FIRST", LAST + 1)
    whole = evaluator.evaluate(candidate, "proxy")
    assert isinstance(score, Score)
    assert isinstance(whole, Score)
    assert (score.distortion, score.agreement) == (whole.distortion, whole.agreement)

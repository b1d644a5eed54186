"""Evaluating on a GPU: where there is one, the scores are those of the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from evaluators.demo import demo_dataset, demo_detector
from evaluators.device import CPU, computing_on, moved
from evaluators.evaluator import Evaluator
from evaluators.score import Failed, Score
from spaces.candidate import Candidate
from spaces.groups import analyse
from spaces.saliency import rank

SIZE = 128
META = torch.device("meta")


@dataclass(frozen=True)
class Pair:
    first: Tensor
    second: tuple[Tensor, int]


def test_all_tensors_of_a_value_move_and_what_is_one_object_stays_one() -> None:
    pair = Pair(torch.ones(2), (torch.zeros(3), 5))
    there = moved({"a": pair, "b": pair, "c": [torch.ones(1), "name"]}, META)
    assert there["a"] is there["b"]
    assert there["a"].first.device == there["a"].second[0].device == META
    assert there["a"].second[1] == 5
    assert there["c"][0].device == META
    assert there["c"][1] == "name"
    assert pair.first.device == CPU


def test_new_tensors_lie_on_the_device_only_while_it_is_computed_on() -> None:
    with computing_on(CPU):
        assert torch.zeros(1).device == CPU
    tf32 = torch.backends.cudnn.allow_tf32
    with computing_on(META):
        assert torch.zeros(1).device == META
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.enabled
    assert torch.zeros(1).device == CPU
    assert torch.backends.cudnn.allow_tf32 == tf32


def candidates() -> dict[str, Candidate]:
    network = analyse(demo_detector(), SIZE)
    kept = tuple((g.name, max(1, int(g.size * 0.9))) for g in network.groups)
    names = [layer.name for layer in network.layers]
    eight, few = (tuple((name, bits, 8) for name in names) for bits in (8, 5))
    sparse = tuple((name, "2:4") for name in names if ".m." in name)
    return {
        "dense": Candidate(SIZE),
        "channels": Candidate(SIZE, kept),
        "8 bits": Candidate(SIZE, bits=eight),
        "channels and few bits": Candidate(SIZE, kept, few),
        "patterns": Candidate(SIZE, patterns=sparse),
    }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("rung", ["proxy", "subset", "full"])
def test_scores_on_a_gpu_are_those_of_the_cpu(
    rung: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETRIM_CACHE", str(tmp_path_factory.mktemp("cache")))
    detector = demo_detector()
    network = analyse(detector, SIZE)
    ranking = rank(detector, network)
    data = demo_dataset("train", 32), demo_dataset("val", 40)
    here, there = (
        Evaluator(detector, network, ranking, *data, device=torch.device(name))
        for name in ("cpu", "cuda")
    )
    for name, candidate in candidates().items():
        expected, got = here.evaluate(candidate, rung), there.evaluate(candidate, rung)
        assert not isinstance(expected, Failed), name
        assert not isinstance(got, Failed), (name, got)
        assert close(expected, got), (name, expected, got)
        assert there.evaluate(candidate, rung) == got, name
        assert all(x.device == CPU for x in there.build(candidate, rung).net.state_dict().values())


def close(one: Score, other: Score) -> bool:
    """Tell whether two scores differ by no more than a few roundings that fell differently."""
    pairs = [(one.agreement, other.agreement), (one.distortion, other.distortion)]
    if one.map50_95 is not None and other.map50_95 is not None:
        pairs.append((one.map50_95, other.map50_95))
    return all(abs(a - b) < 0.02 for a, b in pairs)

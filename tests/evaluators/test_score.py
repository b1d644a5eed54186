from __future__ import annotations

import json
import math
import pickle

import pytest

from evaluators.score import Failed, Score

SCORE = Score(0.5, 0.7, 0.01, 0.9, 32, "subset", 1.25)


@pytest.mark.parametrize(
    "value", [SCORE, Score(None, None, 0.0, 1.0, 8, "proxy"), Failed("died", "why", True)]
)
def test_survives_json_and_pickle(value: Score | Failed) -> None:
    assert type(value).from_dict(json.loads(json.dumps(value.to_dict()))) == value
    assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301 - our own bytes


@pytest.mark.parametrize("name", ["map50_95", "map50", "distortion", "agreement"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_refuses_what_is_not_finite(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        Score.from_dict(SCORE.to_dict() | {name: value})


def test_refuses_what_is_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"map50 must lie in 0..1, got 1.5"):
        Score.from_dict(SCORE.to_dict() | {"map50": 1.5})
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Score.from_dict(SCORE.to_dict() | {"images": 0})


def test_refuses_unknown_fields() -> None:
    with pytest.raises(TypeError):
        Score.from_dict(SCORE.to_dict() | {"map75": 0.1})

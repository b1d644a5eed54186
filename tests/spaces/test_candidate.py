import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_models.errors import InputError
from spaces.candidate import Candidate, check_names

EXAMPLE = Candidate(
    imgsz=320,
    kept=(("model.0", 8), ("model.2.cv1", 16)),
    bits=(("model.0.conv", 16, 16), ("model.1.conv", 8, 8)),
    patterns=(("model.1.conv", "2:4"),),
)

NAMES = st.text(min_size=1, max_size=8)
CANDIDATES = st.builds(
    Candidate,
    imgsz=st.integers(32, 1280),
    kept=st.dictionaries(NAMES, st.integers(1, 512)).map(lambda d: tuple(d.items())),
    bits=st.dictionaries(NAMES, st.tuples(st.integers(1, 16), st.integers(1, 16))).map(
        lambda d: tuple((name, *bits) for name, bits in d.items())
    ),
    patterns=st.dictionaries(NAMES, NAMES).map(lambda d: tuple(d.items())),
)


def test_digest_is_the_same_for_ever() -> None:
    # printf '%s' '{"bits":[["model.0.conv",16,16],["model.1.conv",8,8]],"imgsz":320,"kept":
    # [["model.0",8],["model.2.cv1",16]],"patterns":[["model.1.conv","2:4"]]}' | sha256sum
    assert EXAMPLE.digest == "4e8b25b9c3eb206df03fb0b27696ac2ee8271b5b104a026af29ed3ffa76cfe78"


def test_digest_ignores_the_order_of_items() -> None:
    turned = Candidate(320, EXAMPLE.kept[::-1], EXAMPLE.bits[::-1], EXAMPLE.patterns)
    assert turned.digest == EXAMPLE.digest


@pytest.mark.parametrize(
    "other",
    [
        Candidate(416, EXAMPLE.kept, EXAMPLE.bits, EXAMPLE.patterns),
        Candidate(320, (("model.0", 16), ("model.2.cv1", 16)), EXAMPLE.bits, EXAMPLE.patterns),
        Candidate(320, EXAMPLE.kept, EXAMPLE.bits[:1], EXAMPLE.patterns),
        Candidate(320, EXAMPLE.kept, EXAMPLE.bits),
    ],
)
def test_digest_depends_on_everything(other: Candidate) -> None:
    assert other.digest != EXAMPLE.digest


@given(CANDIDATES)
def test_survives_json(candidate: Candidate) -> None:
    again = Candidate.from_dict(json.loads(json.dumps(candidate.to_dict())))
    assert again.to_dict() == candidate.to_dict()
    assert again.digest == candidate.digest


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"imgsz": 320},
        {**EXAMPLE.to_dict(), "imgsz": "320"},
        {**EXAMPLE.to_dict(), "imgsz": True},
        {**EXAMPLE.to_dict(), "kept": [["model.0"]]},
        {**EXAMPLE.to_dict(), "kept": [["model.0", 8.0]]},
        {**EXAMPLE.to_dict(), "bits": 8},
    ],
)
def test_what_is_no_candidate_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(InputError, match="Not a candidate"):
        Candidate.from_dict(record)


def test_unknown_and_repeated_names_are_refused() -> None:
    check_names("layer", ["a", "b"], ["a", "b", "c"])
    with pytest.raises(InputError, match=r"Unknown layer 'd'; expected one of the model's 1, such"):
        check_names("layer", ["d"], ["a"])
    with pytest.raises(InputError, match="The layer a is given 2 times"):
        check_names("layer", ["a", "a"], ["a"])

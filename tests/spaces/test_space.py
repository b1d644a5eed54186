import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_models.cost import CostModel
from hw_models.device import load_profile
from hw_models.errors import InputError
from hw_models.workload import OtherOp, WorkloadBatch
from spaces.candidate import Candidate
from spaces.groups import Network, analyse
from spaces.model import Detector, load_detector
from spaces.space import SearchSpace, bit_options, droppable, keep_levels, pattern_options

BITS = [(16, 16), (8, 16), (8, 8)]


@pytest.fixture(scope="module")
def space(u_network: Network) -> SearchSpace:
    return SearchSpace(u_network, [320, 416], keep_levels(u_network), bit_options(u_network, BITS))


def genomes(space: SearchSpace, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, space.upper + 1, (count, len(space.upper)))


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("model.0", (16, 8)),
        ("model.1", (32, 24, 16, 8)),
        ("model.3", (64, 56, 48, 40, 32, 24, 16, 8)),
        ("model.7", (256, 224, 192, 160, 128, 96, 64, 32)),
        ("model.24.cv3.0.0", (80, 72, 64, 56, 40, 32, 24, 16)),
    ],
)
def test_keep_levels(u_network: Network, name: str, levels: tuple[int, ...]) -> None:
    assert keep_levels(u_network)[name] == levels


@given(
    granule=st.integers(1, 64),
    most=st.integers(2, 12),
    smallest=st.floats(0, 1),
)
def test_keep_levels_are_multiples_below_dense(
    u_network: Network, granule: int, most: int, smallest: float
) -> None:
    levels = keep_levels(u_network, granule, most, smallest)
    for group in u_network.groups:
        dense, *others = levels[group.name]
        assert dense == group.size
        assert len(others) < most
        assert [dense, *others] == sorted({dense, *others}, reverse=True)
        assert all(count % granule == 0 for count in others)
        assert all(count >= group.size * smallest for count in others)


@pytest.mark.parametrize("wrong", [{"granule": 0}, {"most": 1}, {"smallest": 1.5}])
def test_impossible_levels_are_refused(u_network: Network, wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="Keep levels need"):
        keep_levels(u_network, **wrong)


def test_variables_are_what_has_several_options(space: SearchSpace, u_network: Network) -> None:
    names = [variable.name for variable in space.variables]
    assert names[:2] == ["imgsz", "keep:model.0"]
    assert len(names) == 1 + 62 + (75 - 6)
    assert space.variables[0].options == (416, 320)
    assert len(space.upper) == len(names)
    nothing = SearchSpace(u_network, [320])
    assert nothing.variables == ()
    assert nothing.decode(nothing.upper) == nothing.dense


@settings(deadline=None)
@given(st.data())
def test_decode_and_encode_are_inverse(space: SearchSpace, data: st.DataObject) -> None:
    genome = np.array([data.draw(st.integers(0, int(level))) for level in space.upper])
    candidate = space.decode(genome)
    assert np.array_equal(space.encode(candidate), genome)
    again = Candidate.from_dict(json.loads(json.dumps(candidate.to_dict())))
    assert np.array_equal(space.encode(again), genome)


def test_level_zero_is_dense(space: SearchSpace, u_network: Network) -> None:
    assert space.dense.imgsz == 416
    assert dict(space.dense.kept) == {group.name: group.size for group in u_network.groups}
    assert {bits[1:] for bits in space.dense.bits} == {(16, 16)}
    assert not space.encode(space.dense).any()
    assert not space.encode(Candidate(416)).any()


def test_digest_of_the_dense_yolov5n_is_the_same_for_ever(space: SearchSpace) -> None:
    text = json.dumps(space.dense.to_dict(), sort_keys=True, separators=(",", ":"))
    assert space.dense.digest == hashlib.sha256(text.encode()).hexdigest()
    assert space.dense.digest == "9b23a68a484af4e9718d255d6a5468f712507603db1aa286aadb9f1d6d45d0bd"


def test_digest_does_not_depend_on_numpy(u_network: Network) -> None:
    counts = {"model.0": np.array([16, 8])}
    bits = {"model.0.conv": np.array(BITS)}
    space = SearchSpace(u_network, np.array([320, 416]), counts, bits)
    plain = SearchSpace(u_network, [320, 416], {"model.0": [16, 8]}, {"model.0.conv": BITS})
    assert space.decode(space.upper).digest == plain.decode(plain.upper).digest


def test_batch_is_the_same_as_one_by_one(space: SearchSpace) -> None:
    chosen = genomes(space, 20)
    batch = space.workloads(chosen)
    assert batch.size == 20
    for number, genome in enumerate(chosen):
        one = WorkloadBatch.of(space.workload(space.decode(genome)))
        for mine, its in ((one.convs, batch.convs), (one.others, batch.others)):
            assert mine.names == its.names
            for field in mine.__slots__:
                value = getattr(its, field)
                if isinstance(value, np.ndarray):
                    row = value[number % len(value)]
                    assert np.array_equal(getattr(mine, field)[0], row), field


def test_workload_lists_all_steps_in_order(space: SearchSpace, u_network: Network) -> None:
    workload = space.workload(space.dense)
    assert workload.layers == u_network.steps_at(416)
    assert workload.input_shape == (3, 416, 416)


def test_workload_of_counts_between_levels(space: SearchSpace) -> None:
    workload = space.workload(Candidate(320, (("model.0", 5),), (("model.1.conv", 4, 8),)))
    first, second = workload.convs[:2]
    assert (first.out_channels, second.in_channels) == (5, 5)
    assert (second.weight_bits, second.act_bits) == (4, 8)
    assert (first.weight_bits, first.act_bits) == (16, 16)


def test_ops_have_the_bits_that_their_readers_need(space: SearchSpace) -> None:
    low = tuple((layer, 8, 8) for layer in ("model.13.cv1.conv", "model.13.cv2.conv"))
    ops = {op.name: op.act_bits for op in space.workload(Candidate(320, bits=low)).others}
    assert ops["model.11.resize"] == 8  # read by both, and by nothing else
    assert ops["model.12.concat"] == 8
    assert ops["model.10.activation"] == 16  # also read by model.23
    ops = {op.name: op.act_bits for op in space.workload(Candidate(320, bits=low[:1])).others}
    assert ops["model.11.resize"] == 16
    assert ops["decode.0"] == 16


def test_detects_outputs_vary_their_bits_only_where_that_is_asked(u_network: Network) -> None:
    few = [(32, 32), (8, 8)]
    assert len(u_network.outputs) == 6
    assert not {*bit_options(u_network, few)} & {*u_network.outputs}
    bits = bit_options(u_network, few, outputs=True)
    assert [*bits] == [layer.name for layer in u_network.layers]
    space = SearchSpace(u_network, [320], bits=bits, baseline=(32, 32))
    assert [*space.narrowed({}).upper] == [*space.upper]
    assert space.decode(np.asarray(space.upper)).bits == tuple((name, 8, 8) for name in bits)
    only = SearchSpace(u_network, [320], bits={name: [(8, 8)] for name in bits}, baseline=(32, 32))
    assert only.narrowed({}).dense.bits == only.dense.bits == tuple((n, 8, 8) for n in bits)
    pruned = {u_network.outputs[0]: ("dense", "2:4")}
    with pytest.raises(InputError, match="layer to vary"):
        SearchSpace(u_network, [320], patterns=pruned)


def test_maps_that_change_their_format_are_listed(u_network: Network) -> None:
    bits = bit_options(u_network, [(32, 32), (8, 8)])
    space = SearchSpace(u_network, [320], bits=bits, baseline=(32, 32), converts=True)

    def changed(*layers: str) -> set[str]:
        candidate = Candidate(320, bits=tuple((layer, 8, 8) for layer in layers))
        ops = space.workload(candidate).others
        return {op.name.removesuffix("/convert") for op in ops if op.kind == "convert"}

    names = [layer.name for layer in u_network.layers]
    assert not changed()
    assert not changed(*names)
    inner = "model.2.m.0.cv2.conv"  # added to what cv1 wrote, then joined with what cv2 wrote
    assert changed(inner) == {inner, "model.2.m.0.cv1.conv"}
    assert changed(*set(names) - {inner}) == changed(inner)
    # read by two layers in integers: changed once
    assert changed("model.2.cv1.conv", "model.2.cv2.conv") >= {"model.1.conv"}


def test_ops_of_a_runtime_that_converts_have_the_bits_of_their_writers(u_network: Network) -> None:
    bits = bit_options(u_network, [(32, 32), (8, 8)])
    space = SearchSpace(u_network, [320], bits=bits, baseline=(32, 32), converts=True)
    candidate = Candidate(320, bits=(("model.1.conv", 8, 8), ("model.9.cv2.conv", 8, 8)))
    ops = {op.name: op.act_bits for op in space.workload(candidate).others}
    assert ops["model.1.activation"] == 8
    assert ops["model.0.activation"] == 32
    assert ops["model.9.concat"] == 32
    assert ops["decode.0"] == 32


def test_conversions_are_priced_alike_in_batches_and_one_by_one(u_network: Network) -> None:
    bits = bit_options(u_network, [(32, 32), (8, 8)])
    levels = keep_levels(u_network)
    depth = droppable(u_network)
    space = SearchSpace(u_network, [320], levels, bits, (32, 32), depth=depth, converts=True)
    profile = load_profile("jetson-xavier-nx")
    model = CostModel(replace(profile, traffic=profile.traffic | {"convert": 3.0}))
    chosen = genomes(space, 30)
    together = model.predict_batch(space.workloads(chosen)).latency_ms
    apart = [model.predict(space.workload(space.decode(x))).latency_ms for x in chosen]
    assert together == pytest.approx(apart, rel=1e-5)
    free = CostModel(profile).predict_batch(space.workloads(chosen)).latency_ms
    assert (free < together).all()


def test_baseline_bits_are_those_of_layers_left_alone(u_network: Network) -> None:
    space = SearchSpace(u_network, [320], bits={"model.0.conv": [(8, 8)]}, baseline=(32, 32))
    workload = space.workload(space.dense)
    assert workload.convs[0].weight_bits == 8
    assert {conv.weight_bits for conv in workload.convs[1:]} == {32}
    assert workload.others[-1].act_bits == 32
    assert space.variables == ()


def test_ignored_layers_have_no_variables(u_detector: Detector) -> None:
    network = analyse(u_detector, 320, ["model.0"])
    space = SearchSpace(network, [320], keep_levels(network), bit_options(network, BITS))
    assert not [variable for variable in space.variables if variable.name.endswith("model.0")]
    with pytest.raises(InputError, match=r"Unknown layer to vary 'model.0.conv'"):
        SearchSpace(network, [320], bits={"model.0.conv": BITS})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"imgsz": [330]}, "Image size 330 does not fit"),
        ({"imgsz": []}, "Options of imgsz"),
        ({"imgsz": [320, 320]}, "Options of imgsz: expected different values"),
        ({"levels": {"nothing": [8]}}, "Unknown channel group 'nothing'"),
        ({"levels": {"model.0": []}}, "Options of model.0"),
        ({"levels": {"model.0": [8, 16]}}, "densest first"),
        ({"levels": {"model.0": [8]}}, "Levels of group model.0: expected channels from its 16"),
        ({"levels": {"model.0": [16, 0]}}, "no less than 1"),
        ({"bits": {"nothing": BITS}}, "Unknown layer 'nothing'"),
        ({"bits": {"model.0.conv": [(0, 8)]}}, "Bits of layer model.0.conv: expected positive"),
        ({"bits": {"model.0.conv": BITS[::-1]}}, "densest first"),
        ({"patterns": {"nothing": ["dense", "2ep"]}}, "Unknown layer 'nothing'"),
        ({"patterns": {"model.24.cv2.0.2": ["dense", "2ep"]}}, "Unknown layer to vary"),
        ({"patterns": {"model.1.conv": ["dense", "9ep"]}}, "Unknown sparsity pattern '9ep'"),
        ({"patterns": {"model.1.conv": ["dense", "2ep", "3ep"]}}, "densest first"),
        ({"patterns": {"model.1.conv": ["3ep", "2ep"]}}, "expected dense first"),
        ({"patterns": {"model.0.conv": ["dense", "2ep"]}}, "2ep does not fit.*6x6"),
    ],
)
def test_impossible_spaces_are_refused(
    u_network: Network, wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SearchSpace(u_network, **{"imgsz": [320], **wrong})


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (Candidate(640), r"imgsz: expected one of \[416, 320\], got 640"),
        (Candidate(320, (("model.0", 12),)), r"model.0: expected one of \[16, 8\], got 12"),
        (Candidate(320, (("model.0", 99),)), "Group model.0 has 16 channels"),
        (Candidate(320, (("nothing", 8),)), "Unknown channel group 'nothing'"),
        (Candidate(320, bits=(("nothing", 8, 8),)), "Unknown layer 'nothing'"),
        (Candidate(320, bits=(("model.0.conv", 4, 4),)), "expected one of"),
        (Candidate(320, bits=(("model.24.cv2.0.2", 8, 8),)), r"expected one of \[\(16, 16\)\]"),
        (Candidate(320, bits=(("model.0.conv", 8, 8),) * 2), "given 2 times"),
        (Candidate(320, patterns=(("model.1.conv", "2ep"),)), r"expected one of \['dense'\]"),
    ],
)
def test_candidates_of_other_spaces_are_refused(
    space: SearchSpace, candidate: Candidate, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        space.encode(candidate)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x[:, :-1], "expected 132 variables"),
        (lambda x: x[0], "have shape"),
        (lambda x: x.astype(float), "expected integers"),
        (lambda x: x - 1, "Variable imgsz has levels 0 to 1; got -1"),
        (lambda x: x + 100, r"got 100 \(genome 0\)"),
    ],
)
def test_impossible_genomes_are_refused(
    space: SearchSpace, spoil: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        space.workloads(spoil(np.zeros((2, len(space.upper)), dtype=np.int64)))


def test_a_population_of_the_m_model() -> None:
    network = analyse(load_detector("yolov5m.yaml"), 640)
    space = SearchSpace(network, [640], keep_levels(network), bit_options(network, BITS))
    batch = space.workloads(genomes(space, 50))
    assert (batch.convs.in_channels <= [conv.in_channels for conv in network.layers]).all()
    others = [step for step in network.steps if isinstance(step, OtherOp)]
    assert (batch.others.in_channels <= [op.in_channels for op in others]).all()


@pytest.fixture(scope="module")
def pattern_space(u_network: Network) -> SearchSpace:
    patterns = pattern_options(u_network, ["2ep", "2:4", "3ep"])
    return SearchSpace(
        u_network,
        [320, 416],
        keep_levels(u_network),
        bit_options(u_network, BITS),
        (16, 16),
        patterns,
    )


def test_patterns_are_offered_where_they_fit(
    pattern_space: SearchSpace, u_network: Network
) -> None:
    options = {variable.name: variable.options for variable in pattern_space.variables}
    assert options["pattern:model.1.conv"] == ("dense", "2:4", "3ep", "2ep")
    assert options["pattern:model.0.conv"] == ("dense", "2:4")  # R-TOSS has no 6x6 kernels
    assert not {f"pattern:{name}" for name in u_network.ignored} & set(options)
    assert pattern_options(u_network, []) == {}
    with pytest.raises(InputError, match="2ep is given 2 times"):
        pattern_options(u_network, ["2ep", "2ep"])


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_patterns_round_trip_and_are_priced_alike(
    pattern_space: SearchSpace, data: st.DataObject
) -> None:
    genome = np.array([data.draw(st.integers(0, int(level))) for level in pattern_space.upper])
    candidate = pattern_space.decode(genome)
    assert np.array_equal(pattern_space.encode(candidate), genome)
    again = Candidate.from_dict(json.loads(json.dumps(candidate.to_dict())))
    assert again.digest == candidate.digest
    assert all(pattern != "dense" for _, pattern in candidate.patterns)
    one = WorkloadBatch.of(pattern_space.workload(candidate)).convs
    many = pattern_space.workloads(np.stack([np.zeros_like(genome), genome])).convs
    pattern, density = (np.broadcast_to(a, (2, 75)) for a in (many.pattern, many.density))
    assert np.array_equal(one.pattern[0], pattern[1])
    assert np.allclose(one.density[0], density[1])
    assert (density[0] == 1).all()
    assert (pattern[0] == 0).all()


def test_density_is_that_of_the_mask(pattern_space: SearchSpace) -> None:
    candidate = Candidate(
        320, kept=(("model.0", 8),), patterns=(("model.1.conv", "3ep"), ("model.2.cv1.conv", "2ep"))
    )
    convs = {conv.name: conv for conv in pattern_space.workload(candidate).convs}
    first, second = convs["model.1.conv"], convs["model.2.cv1.conv"]
    assert (first.pattern, first.density) == ("3ep", 3 / 9)
    assert second.in_channels * second.out_channels == 512
    assert (second.pattern, second.density) == ("2ep", 512 // 9 * 2 / 512)
    assert convs["model.2.cv2.conv"].density == 1.0
    with pytest.raises(InputError, match=r"does not fit layer model\.0\.conv"):
        pattern_space.workload(Candidate(320, patterns=(("model.0.conv", "2ep"),)))


def test_a_space_travels_to_other_processes(space: SearchSpace) -> None:
    again = pickle.loads(pickle.dumps(space))  # noqa: S301 (our own bytes)
    chosen = genomes(space, 3)
    assert again.decode(chosen[0]) == space.decode(chosen[0])
    assert np.array_equal(
        again.workloads(chosen).convs.in_channels, space.workloads(chosen).convs.in_channels
    )

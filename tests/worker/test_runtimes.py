"""One conformance suite for all runtimes, and what is particular to each."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from paretrim_worker.child import check_precision
from paretrim_worker.errors import BadRequest, CannotRun
from paretrim_worker.model_inputs import make_inputs
from paretrim_worker.onnx_check import check_model, parse
from paretrim_worker.runtimes import NAMES, Options, make_runtime
from paretrim_worker.runtimes.ort import PROVIDERS, providers
from paretrim_worker.runtimes.trt import Trtexec
from paretrim_worker.timing import Plan

PLAN = Plan(warm_up=2, number=2, repeat=4, min_time_s=0)


def quiet(done, total):
    """Hears no progress."""


@pytest.fixture
def options(tmp_path, trtexec):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Options(threads=1, processor="auto", scratch=scratch, trtexec=trtexec)


@pytest.fixture(params=[*("onnxruntime " + name for name in PROVIDERS), "openvino", "trtexec"])
def runtime(request, options):
    name, _, processor = request.param.partition(" ")
    if name == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed here")
    if processor and PROVIDERS[processor][0] not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no " + PROVIDERS[processor][0] + ": no GPU here")
    return make_runtime(name, options._replace(processor=processor or "auto"))


def load(runtime, models, data, precision="fp32", shapes=None):
    inputs = make_inputs(parse(data).graph, shapes or {})
    return runtime.load(models.write(data), precision, inputs)


class TestConformance:
    """Runs on every runtime."""

    def test_says_what_it_is(self, runtime):
        assert runtime.facts.name in NAMES
        assert runtime.facts.version not in ("", "unknown")
        assert "fp32" in runtime.facts.precisions

    def test_times_a_model(self, runtime, models):
        model = load(runtime, models, models.conv())
        timing = model.time(PLAN, quiet)
        assert len(timing.samples_ms) >= PLAN.repeat
        assert all(math.isfinite(sample) and sample > 0 for sample in timing.samples_ms)
        window_ms = (timing.end_s - timing.start_s) * 1e3
        assert window_ms >= sum(timing.samples_ms[: PLAN.repeat])
        model.close()

    def test_a_larger_model_takes_longer(self, runtime, models):
        small = load(runtime, models, models.conv(size=16)).time(PLAN, quiet)
        large = load(runtime, models, models.slow()).time(PLAN, quiet)
        assert min(large.samples_ms) > 3 * min(small.samples_ms)

    def test_computes_what_numpy_computes(self, runtime, models):
        data = models.conv(size=16)
        (output,) = load(runtime, models, data).outputs()
        expected = reference(data)
        assert output.dims == list(expected.shape)
        assert output.finite
        assert output.mean == pytest.approx(expected.mean(), rel=1e-4)
        assert output.rms == pytest.approx(np.sqrt((expected**2).mean()), rel=1e-4)

    def test_fixes_open_shapes(self, runtime, models):
        data = models.conv(open_shape=True)
        model = load(runtime, models, data, shapes={"x": [1, 3, 24, 24]})
        assert model.outputs()[0].dims == [1, 8, 24, 24]
        assert len(model.time(PLAN, quiet).samples_ms) >= PLAN.repeat

    def test_runs_int8(self, runtime, models):
        model = load(runtime, models, models.quantized(), precision="int8")
        assert model.outputs()[0].finite
        assert len(model.time(PLAN, quiet).samples_ms) >= PLAN.repeat

    def test_profiles_layers(self, runtime, models):
        layers = load(runtime, models, models.slow()).profile(3)
        assert layers
        assert all(layer.mean_ms >= 0 and layer.name for layer in layers)
        assert sum(layer.mean_ms for layer in layers) > 0

    def test_a_model_that_it_cannot_run(self, runtime, models):
        weights = numpy_helper.from_array(
            np.ones((4, 5, 1, 1), "float32"), "w"
        )  # 5 channels, not 3
        wrong = models.model([helper.make_node("Conv", ["x", "w"], ["y"])], [weights], [1, 3, 8, 8])
        with pytest.raises(CannotRun):
            load(runtime, models, wrong).time(PLAN, quiet)

    def test_leaves_no_files(self, runtime, models, options):
        model = load(runtime, models, models.conv())
        model.time(PLAN, quiet)
        model.profile(1)
        model.close()
        assert list(options.scratch.iterdir()) == []


def reference(data):
    """The model of `Models.conv` in numpy, on the seeded input."""
    graph = onnx.load_from_string(data).graph
    weights = numpy_helper.to_array(graph.initializer[0]).astype("float64")
    image = make_inputs(parse(data).graph, {})[0].array.astype("float64")
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = image.shape[2:]
    out = np.zeros((1, weights.shape[0], height, width))
    for row in range(3):
        for column in range(3):
            patch = padded[:, :, row : row + height, column : column + width]
            out += np.einsum("oc,nchw->nohw", weights[:, :, row, column], patch)
    return np.maximum(out, 0)


def test_unknown_runtimes_are_refused(options):
    with pytest.raises(BadRequest, match="expected one of"):
        make_runtime("tflite", options)


def test_processors_that_are_absent_are_refused(options):
    with pytest.raises(BadRequest, match="this onnxruntime has"):
        make_runtime("onnxruntime", options._replace(processor="npu"))


@pytest.mark.parametrize(
    ("version", "option"),
    [("1.17.3", {}), ("1.18.0", {"use_tf32": 0}), ("1.32.1", {"use_tf32": 0})],
)
def test_fp32_on_a_gpu_is_no_tf32(tmp_path, monkeypatch, version, option):
    monkeypatch.setattr(onnxruntime, "__version__", version)
    assert providers("cuda", "fp32", tmp_path) == [("CUDAExecutionProvider", option)]


def test_the_engines_of_tensorrts_provider_are_deleted_with_their_model(models, options):
    model = load(
        make_runtime("onnxruntime", options._replace(processor="cpu")), models, models.conv()
    )
    (folder,) = options.scratch.iterdir()
    (_, chosen), _ = providers("tensorrt", "fp16", folder)
    assert chosen["trt_engine_cache_path"] == str(folder)
    (folder / "TensorrtExecutionProvider_1.engine").touch()
    model.close()
    assert list(options.scratch.iterdir()) == []


def test_onnxruntime_leaves_no_files_of_a_model_that_it_refuses(models, options):
    wrong = models.model([onnx.helper.make_node("Conv", ["x", "absent"], ["y"])], [], [1, 3, 8, 8])
    with pytest.raises(CannotRun):
        load(make_runtime("onnxruntime", options._replace(processor="cpu")), models, wrong)
    assert list(options.scratch.iterdir()) == []


def test_a_missing_trtexec_is_told(options):
    with pytest.raises(BadRequest, match="no program at"):
        make_runtime("trtexec", options._replace(trtexec="/no/such/trtexec"))


@pytest.mark.parametrize(
    ("precision", "quantized", "says"),
    [("int8", False, "has none"), ("fp32", True, "has some"), ("fp16", False, "expected one of")],
)
def test_precision_has_to_fit_the_model(models, precision, quantized, says):
    summary = check_model(models.quantized() if quantized else models.conv())
    with pytest.raises(BadRequest, match=says):
        check_precision(precision, ("fp32", "int8"), summary)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({}, "expected a shape"),
        ({"x": [1, 3, 8]}, "expected a shape"),
        ({"x": [2, 3, 8, 8]}, "expected a shape"),
        ({"x": [1, 3, 0, 8]}, "expected a shape"),
        ({"x": [1, 3, 10**5, 10**5]}, "at most"),
        ({"x": [1, 3, 8, 8], "z": [1]}, "lacks"),
    ],
)
def test_shapes_have_to_fit_the_model(models, shapes, says):
    with pytest.raises(BadRequest, match=says):
        make_inputs(parse(models.conv(open_shape=True)).graph, shapes)


# Modelled on trtexec's documented export, not recorded: its keys and layout (TensorRT 7.1 with the
# warm-up, 10 with other names of the copies), with made-up times.
TIMES_7 = """[
{ "startInMs" : 0.1, "endInMs" : 0.3, "startComputeMs" : 0.3, "endComputeMs" : 30.5,
 "startOutMs" : 30.5, "endOutMs" : 30.6, "inMs" : 0.2, "computeMs" : 30.2, "outMs" : 0.1,
 "latencyMs" : 30.5, "endToEndMs" : 30.5 }
, { "startInMs" : 40.1, "endInMs" : 40.3, "startComputeMs" : 40.3, "endComputeMs" : 52.3,
 "startOutMs" : 52.3, "endOutMs" : 52.4, "inMs" : 0.2, "computeMs" : 12, "outMs" : 0.1,
 "latencyMs" : 12.3, "endToEndMs" : 12.3 }
, { "startInMs" : 52.5, "endInMs" : 52.7, "startComputeMs" : 52.7, "endComputeMs" : 66.7,
 "startOutMs" : 66.7, "endOutMs" : 66.8, "inMs" : 0.2, "computeMs" : 14, "outMs" : 0.1,
 "latencyMs" : 14.3, "endToEndMs" : 14.3 }
]"""
TIMES_10 = """[
  { "startEnqMs" : 201.0, "endEnqMs" : 201.1, "startH2dMs" : 200.9, "endH2dMs" : 201.2,
    "startComputeMs" : 201.2, "endComputeMs" : 213.2, "startD2hMs" : 213.2, "endD2hMs" : 213.3,
    "h2dMs" : 0.3, "computeMs" : 12, "d2hMs" : 0.1, "latencyMs" : 12.4 },
  { "startEnqMs" : 214.0, "endEnqMs" : 214.1, "startH2dMs" : 213.9, "endH2dMs" : 214.2,
    "startComputeMs" : 214.2, "endComputeMs" : 228.2, "startD2hMs" : 228.2, "endD2hMs" : 228.3,
    "h2dMs" : 0.3, "computeMs" : 14, "d2hMs" : 0.1, "latencyMs" : 14.4 }
]"""


class Exporting:
    """An executable that writes one given export and logs like trtexec."""

    def __init__(self, folder, times="[]", profile="[]", output="[]", code=0, log=""):
        self.path = folder / "trtexec"
        self.scratch = folder / "exports"
        exports = json.dumps({"Times": times, "Profile": profile, "Output": output})
        self.path.write_text(
            f"#!{sys.executable}\nimport sys\nexports = {exports}\n"
            "print('&&&& RUNNING TensorRT.trtexec [TensorRT v8401] # trtexec')\n"
            "for argument in sys.argv[1:]:\n"
            "    for name, text in exports.items():\n"
            "        if argument.startswith('--export' + name + '='):\n"
            "            open(argument.split('=', 1)[1], 'w').write(text)\n"
            f"print({log!r}, flush=True)\n"
            f"sys.exit({code} if len(sys.argv) > 2 else 0)\n"
        )
        self.path.chmod(0o755)

    def load(self, models):
        self.scratch.mkdir()
        runtime = Trtexec(Options(1, "auto", self.scratch, str(self.path)))
        return load(runtime, models, models.conv())


@pytest.mark.parametrize("times", [TIMES_7, TIMES_10])
def test_trtexec_times_are_the_gpus_without_warm_up(models, tmp_path, times):
    model = Exporting(tmp_path, times, log="[I] Starting inference").load(models)
    timing = model.time(Plan(warm_up=2, number=1, repeat=2, min_time_s=0), quiet)
    assert timing.samples_ms == [12, 14]
    assert (timing.end_s - timing.start_s) * 1e3 == pytest.approx(26.4 if times == TIMES_7 else 27)


def test_trtexec_without_its_log_has_no_window(models, tmp_path):
    """The window is what energy is taken over: no guess."""
    model = Exporting(tmp_path, TIMES_10, log="silence").load(models)
    timing = model.time(Plan(2, 1, 2, 0), quiet)
    assert timing.start_s == timing.end_s


def test_trtexec_averages_runs(models, tmp_path):
    model = Exporting(tmp_path, TIMES_10).load(models)
    assert model.time(Plan(2, 2, 1, 0), quiet).samples_ms == [13]


def test_trtexec_profile(models, tmp_path):
    profile = """[
      { "count" : 103 }
    , { "name" : "model.0.conv + model.0.act", "timeMs" : 20.6, "averageMs" : 0.2, "medianMs" : 0.2,
        "percentage" : 66.6 }
    , { "name" : "Reformatting CopyNode", "timeMs" : 10.3, "averageMs" : 0.1, "percentage" : 33.4 }
    ]"""
    layers = Exporting(tmp_path, profile=profile).load(models).profile(10)
    assert [(layer.name, layer.mean_ms) for layer in layers] == [
        ("model.0.conv + model.0.act", 0.2),
        ("Reformatting CopyNode", 0.1),
    ]


@pytest.mark.parametrize(
    "times",
    ["", "{}", "[1]", '[{"computeMs": 1}]', '[{"startComputeMs": 99}]', "[", TIMES_10[:200]],
)
def test_trtexec_exports_that_cannot_be_read(models, tmp_path, times):
    model = Exporting(tmp_path, times).load(models)
    with pytest.raises(CannotRun, match="trtexec"):
        model.time(Plan(0, 1, 1, 0), quiet)


def test_trtexec_that_fails(models, tmp_path):
    tool = Exporting(tmp_path, code=3, log="[E] no kernel image")
    with pytest.raises(CannotRun, match=r"ended with 3: .*no kernel image"):
        tool.load(models)
    assert list(tool.scratch.iterdir()) == []


def test_trtexec_gets_a_list_of_arguments(models, options):
    """Names of inputs and files never reach a shell."""
    runtime = make_runtime("trtexec", options)
    data = models.conv()
    inputs = make_inputs(parse(data).graph, {})
    path = models.write(data, "$(touch pwned) ; `touch pwned`.onnx")
    runtime.load(path, "fp32", inputs)
    assert not Path("pwned").exists()
    assert not (path.parent / "pwned").exists()


@pytest.mark.parametrize("name", ["x:/etc/hostname,y", "a,b", "a:1", "a b", "a\nb"])
def test_trtexec_takes_plain_input_names_only(models, options, name):
    """A name with : or , would make trtexec read a file of the client's choice."""
    model = onnx.load_from_string(models.conv())
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    with pytest.raises(CannotRun, match="letters, digits"):
        load(make_runtime("trtexec", options), models, model.SerializeToString())


def test_trtexec_outputs_are_of_the_engine_that_was_timed(models, options):
    """An engine that goes wrong after it was built is noticed by what it computes."""
    runtime = make_runtime("trtexec", options)
    model = load(runtime, models, models.conv(size=16))
    model.time(PLAN, quiet)
    right = model.outputs()
    (engine,) = options.scratch.glob("*.engine")
    damaged = onnx.load_from_string(models.conv(size=16))
    weights = numpy_helper.to_array(damaged.graph.initializer[0])
    damaged.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights * 2, "w"))
    engine.write_bytes(engine.read_bytes()[:6] + damaged.SerializeToString())
    model.time(PLAN, quiet)
    assert model.outputs()[0].rms == pytest.approx(2 * right[0].rms)


def test_trtexec_times_with_the_warm_up_exported(models, options, monkeypatch):
    monkeypatch.setenv("TRTEXEC_EXPORTS_WARM_UP", "1")
    model = load(make_runtime("trtexec", options), models, models.conv())
    timing = model.time(PLAN, quiet)
    assert len(timing.samples_ms) == PLAN.repeat

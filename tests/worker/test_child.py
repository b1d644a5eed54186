"""The measuring process's work, in this process and with a runtime that counts."""

from paretrim_worker.child import Child
from paretrim_worker.model_inputs import Output
from paretrim_worker.runtimes import Facts, LoadedModel, Runtime
from paretrim_worker.timing import Plan, Timing


class CountedModel(LoadedModel):
    def __init__(self, path, closed):
        self.path = path
        self.closed = closed

    def time(self, plan, progress):
        return Timing([1.0] * plan.repeat, 0.0, 1.0)

    def outputs(self):
        return [Output("y", [1], 0.0, 0.0, True)]

    def close(self):
        self.closed.append(self.path.stem)


class CountingRuntime(Runtime):
    """Remembers what was loaded and closed, in order."""

    facts = Facts("counting", "1", "cpu", ("fp32",), False)

    def __init__(self):
        self.loaded = []
        self.closed = []

    def load(self, path, precision, inputs):
        self.loaded.append(path.stem)
        return CountedModel(path, self.closed)


def measure(child, path):
    plan = Plan(warm_up=0, number=1, repeat=1, min_time_s=0.0)
    job = {"do": "measure", "model": str(path), "precision": "fp32", "shapes": {}}
    return child.do({**job, "plan": plan._asdict()})


def test_a_search_loads_each_of_its_models_once(models):
    """The golden and the dense model are measured between candidates, again and again."""
    names = ["golden", "dense", *("candidate-%d" % number for number in range(4))]
    golden, dense, *candidates = (models.write(models.conv(), name + ".onnx") for name in names)
    runtime = CountingRuntime()
    child = Child(runtime, tell=lambda answer: None)
    for candidate in candidates:
        for path in (golden, dense, golden, candidate, golden, dense, golden):
            measure(child, path)
    assert runtime.loaded == names
    assert runtime.closed == names[2:-1]

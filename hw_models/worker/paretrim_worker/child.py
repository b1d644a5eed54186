"""What runs in the measuring process.

It reads jobs from standard input, a JSON object a line, and answers on its first standard output
with JSON lines, until it is killed or its input ends.

A job is {"do": "check" | "measure" | "profile", "model": path, ...}. Answers: any number of
{"stage": name, "done": n, "total": n}, then one {"result": {...}} or {"error": name,
"message": text}. The first line of all is {"ready": facts of the runtime} or an error.

It is its own session's leader (the worker kills the whole group), limits itself before anything is
loaded, and kills its group when its input ends: a worker that was killed leaves nothing behind.
"""

import argparse
import collections
import json
import os
import queue
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, TextIO, Tuple

from paretrim_worker.errors import BadRequest, WorkerError
from paretrim_worker.model_inputs import make_inputs
from paretrim_worker.onnx_check import Summary, check_model, parse
from paretrim_worker.runtimes import LoadedModel, Options, Runtime, make_runtime
from paretrim_worker.timing import Plan

KEPT_MODELS = 3
"""Loaded models kept: a search alternates its candidate with the dense model and the golden one.

To build an engine again would take minutes, and TensorRT might choose other kernels for it.
"""

FILE_BYTES = 4 * 1024**3
OPEN_FILES = 512

Tell = Callable[[Dict[str, Any]], None]


class Child:
    """Does jobs one after another with one runtime."""

    def __init__(self, runtime: Runtime, tell: Tell) -> None:
        self._runtime = runtime
        self._tell = tell
        self._loaded: "collections.OrderedDict[Any, LoadedModel]" = collections.OrderedDict()

    def do(self, job: Dict[str, Any]) -> Dict[str, Any]:
        """Do one job, return its result."""
        return {"check": self._check, "measure": self._measure, "profile": self._profile}[
            job["do"]
        ](job)

    def _check(self, job: Dict[str, Any]) -> Dict[str, Any]:
        return check_model(Path(job["model"]).read_bytes())._asdict()

    def _measure(self, job: Dict[str, Any]) -> Dict[str, Any]:
        self._tell({"stage": "loading", "done": 0, "total": 1})
        start = time.monotonic()
        model = self._load(job)
        load_s = time.monotonic() - start
        plan = Plan(**job["plan"])
        self._tell({"stage": "timing", "done": 0, "total": plan.repeat})
        timing = model.time(
            plan, lambda done, total: self._tell({"stage": "timing", "done": done, "total": total})
        )
        outputs = [output._asdict() for output in model.outputs()]
        return {**timing._asdict(), "load_s": load_s, "outputs": outputs}

    def _profile(self, job: Dict[str, Any]) -> Dict[str, Any]:
        if not self._runtime.facts.profiles_layers:
            raise BadRequest("{} tells no layer times".format(self._runtime.facts.name))
        layers = self._load(job).profile(job["runs"])
        return {"layers": [layer._asdict() for layer in layers]}

    def _load(self, job: Dict[str, Any]) -> LoadedModel:
        key = (job["model"], job["precision"], json.dumps(job["shapes"], sort_keys=True))
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        path = Path(job["model"])
        data = path.read_bytes()
        summary = check_model(data)
        check_precision(job["precision"], self._runtime.facts.precisions, summary)
        inputs = make_inputs(parse(data).graph, job["shapes"])
        while len(self._loaded) >= KEPT_MODELS:
            self._loaded.popitem(last=False)[1].close()
        self._loaded[key] = self._runtime.load(path, job["precision"], inputs)
        return self._loaded[key]


def check_precision(precision: str, possible: Tuple[str, ...], summary: Summary) -> None:
    """Raise BadRequest unless the precision is possible and fits the file.

    INT8 means the file's own QuantizeLinear/DequantizeLinear pairs: a runtime that made up ranges
    of its own would measure another network.
    """
    if precision not in possible:
        raise BadRequest(
            "precision: expected one of {}, got {!r}".format(", ".join(possible), precision)
        )
    if summary.quantizes_activations != (precision == "int8"):
        raise BadRequest(
            "precision {}: int8 is for models with QuantizeLinear nodes and only for them; this "
            "model has {}".format(precision, "some" if summary.quantizes_activations else "none")
        )


def limit_resources(memory_bytes: int) -> None:
    """Limit this process before it reads anything that came from outside.

    Args:
        memory_bytes: Address space; 0 for no limit.
    """
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, FILE_BYTES)
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    if memory_bytes:
        _lower(resource.RLIMIT_AS, memory_bytes)


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (limit, limit))


def read_jobs(jobs: "queue.Queue[Dict[str, Any]]", stdin: TextIO) -> None:
    """Pass jobs on; when the worker is gone, end this process and all it started, at once."""
    for line in stdin:
        jobs.put(json.loads(line))
    os.killpg(0, signal.SIGKILL)


def private_output() -> TextIO:
    """Take standard output for the answers alone; what libraries print goes to standard error."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return output


def main(arguments: Optional[List[str]] = None) -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--processor", required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--trtexec", default="")
    parser.add_argument("--memory-bytes", type=int, required=True)
    chosen = parser.parse_args(arguments)
    output = private_output()

    def tell(answer: Dict[str, Any]) -> None:
        output.write(json.dumps(answer) + "\n")
        output.flush()

    jobs: "queue.Queue[Dict[str, Any]]" = queue.Queue()
    threading.Thread(target=read_jobs, args=(jobs, sys.stdin), daemon=True).start()
    try:
        runtime = make_runtime(
            chosen.runtime,
            Options(chosen.threads, chosen.processor, chosen.scratch, chosen.trtexec),
        )
    except WorkerError as error:
        tell({"error": type(error).__name__, "message": str(error)})
        return
    # CUDA reserves far more address space than it uses: no limit of memory there.
    limit_resources(chosen.memory_bytes if runtime.facts.processor == "cpu" else 0)
    tell({"ready": runtime.facts._asdict()})
    child = Child(runtime, tell)
    while True:
        job = jobs.get()
        try:
            answer: Dict[str, Any] = {"result": child.do(job)}
        except WorkerError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        except MemoryError:
            answer = {"error": "CannotRun", "message": "not enough memory for this model"}
        tell(answer)


if __name__ == "__main__":
    main()

"""The measuring process, seen from the worker: start it, give it jobs, kill it.

It runs in a session of its own, so that it and whatever it starts die together. It is kept between
jobs, because starting Python and a runtime takes longer than many a measurement; after any job
that did not end properly it is killed and the next job gets a fresh one.
"""

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

from paretrim_worker.errors import REPORTED, Cancelled, ProcessDied, TimedOut, WorkerError

START_SECONDS = 120.0
"""A cold Jetson takes tens of seconds to import a CUDA runtime."""

END_SECONDS = 5.0
"""A process that closed its output is given this long to end by itself: its exit code tells why."""

LINE_BYTES = 4 * 1024 * 1024
"""An answer with the largest number of samples is far below this."""

JOBS_A_PROCESS = 500
"""A process is replaced after so many jobs: whatever a runtime leaks is given back."""


class ChildOptions(NamedTuple):
    """How the measuring process is started; see child.py.

    Attributes:
        scratch: A folder of the process alone; whatever it holds is deleted with the process.
    """

    runtime: str
    threads: int
    processor: str
    scratch: Path
    trtexec: str = ""
    memory_bytes: int = 0

    def arguments(self) -> List[str]:
        """The process's arguments after the program."""
        return [
            "--runtime={}".format(self.runtime),
            "--threads={}".format(self.threads),
            "--processor={}".format(self.processor),
            "--scratch={}".format(self.scratch),
            "--trtexec={}".format(self.trtexec),
            "--memory-bytes={}".format(self.memory_bytes),
        ]


class Sandbox:
    """Runs one job at a time, from one thread at a time; any thread may call `interrupt`.

    Attributes:
        on_start: Told whenever a process has been started (True) or could not be (False).
    """

    def __init__(self, options: ChildOptions) -> None:
        self.on_start: Callable[[bool], None] = lambda works: None
        self._options = options
        self._lock = threading.Lock()  # a process is signalled only while it is not reaped
        self._process: Optional["subprocess.Popen[bytes]"] = None
        self._facts: Dict[str, Any] = {}
        self._jobs = 0

    @property
    def pid(self) -> Optional[int]:
        """The measuring process, if there is one."""
        process = self._process
        return process.pid if process is not None else None

    def facts(self) -> Dict[str, Any]:
        """What the runtime says it is; starts a process if none was ever started.

        Raises:
            WorkerError: If the runtime cannot start.
        """
        if not self._facts:
            self._ready(threading.Event())
        return self._facts

    def run(
        self, job: Dict[str, Any], deadline_s: float, cancelled: threading.Event
    ) -> Iterator[Dict[str, Any]]:
        """Do a job: yield its stages, then {"result": ...}.

        Args:
            job: See child.py.
            deadline_s: When it is killed, on the monotonic clock.
            cancelled: Set, then `interrupt` called, when nobody waits for the job any more.

        Raises:
            TimedOut: At the deadline.
            Cancelled: If it was cancelled.
            ProcessDied: If the process ended.
            WorkerError: What the job itself reports.
        """
        finished = False
        try:
            process = self._ready(cancelled)
            if cancelled.is_set():  # before the interrupt could find this process
                raise Cancelled("the client went away")
            self._send(process, job)
            for answer in self._answers(process, deadline_s):
                finished = "result" in answer or "error" in answer
                if "error" in answer:
                    raise REPORTED.get(answer["error"], WorkerError)(answer["message"])
                yield answer
                if finished:
                    return
            if cancelled.is_set():
                raise Cancelled("the client went away")
            raise ProcessDied(self._death(process))
        finally:
            self._jobs += 1
            if not finished or self._jobs >= JOBS_A_PROCESS:
                self.close()

    def interrupt(self) -> None:
        """Kill what runs; the thread that waits for it sees it end."""
        with self._lock:
            if self._process is not None and self._process.returncode is None:
                kill_group(self._process.pid)

    def close(self) -> None:
        """End the process and give back what it held; the next job would get a new one."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None and process.returncode is None:
                kill_group(process.pid)
        if process is None:
            return
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # a job was still in the buffer
                pipe.close()
        # Engines and exports: killed, the process could not delete them.
        shutil.rmtree(str(self._options.scratch), ignore_errors=True)

    def _ready(self, cancelled: threading.Event) -> "subprocess.Popen[bytes]":
        process = self._process
        if process is not None and process.poll() is None:
            return process
        self.close()
        try:
            process = self._start()
        except (WorkerError, OSError):
            self.close()
            if not cancelled.is_set():  # else it was killed: nothing is wrong with the runtime
                self.on_start(False)
            raise
        self.on_start(True)
        return process

    def _start(self) -> "subprocess.Popen[bytes]":
        self._options.scratch.mkdir(mode=0o700, exist_ok=True)
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "paretrim_worker.child", *self._options.arguments()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=str(self._options.scratch),
                env=self._environment(),
                start_new_session=True,
            )
        with self._lock:
            self._process = process
        self._jobs = 0
        for answer in self._answers(process, time.monotonic() + START_SECONDS):
            if "ready" in answer:
                self._facts = answer["ready"]
                return process
            raise ProcessDied("the measuring process cannot start: {}".format(answer["message"]))
        raise ProcessDied(self._death(process))

    @property
    def _log(self) -> Path:
        return self._options.scratch / "child.log"

    def _environment(self) -> Dict[str, str]:
        """The environment here; the package is found, temporary files are private."""
        package = str(Path(__file__).resolve().parents[1])
        paths = [package, os.environ.get("PYTHONPATH", "")]
        threads = str(self._options.threads)
        return {
            **os.environ,
            "TMPDIR": str(self._options.scratch),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
        }

    def _send(self, process: "subprocess.Popen[bytes]", job: Dict[str, Any]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:  # it died or was killed just now
            raise ProcessDied(self._death(process)) from None

    def _answers(
        self, process: "subprocess.Popen[bytes]", deadline_s: float
    ) -> Iterator[Dict[str, Any]]:
        """Yield the process's answers until it ends.

        Raises:
            TimedOut: At the deadline.
        """
        assert process.stdout is not None
        buffer = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while len(buffer) < LINE_BYTES:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    raise TimedOut("the call's time is over; what was running has been killed")
                block = os.read(process.stdout.fileno(), 65536)
                if not block:
                    return
                buffer += block
                *lines, rest = buffer.split(b"\n")
                buffer = bytearray(rest)
                for line in lines:
                    yield json.loads(line.decode())

    def _death(self, process: "subprocess.Popen[bytes]") -> str:
        """Say how the process ended, with the last it wrote; what it started is killed."""
        wait_unreaped(process.pid, END_SECONDS)
        kill_group(process.pid)
        code = process.wait()
        try:
            last = self._log.read_bytes()[-500:].decode(errors="replace").strip()
        except OSError:
            last = ""
        return "the measuring process ended ({}){}".format(code, ": " + last if last else "")


def wait_unreaped(pid: int, seconds: float) -> None:
    """Wait until a child has ended; unreaped, its number is still its group's and nobody else's."""
    end_s = time.monotonic() + seconds
    asked = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while os.waitid(os.P_PID, pid, asked) is None and time.monotonic() < end_s:
        time.sleep(0.005)


def kill_group(pid: int) -> None:
    """Kill a process group; stopped processes die of it too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)

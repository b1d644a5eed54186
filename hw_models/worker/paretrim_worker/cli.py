"""The command `paretrim-worker`."""

import argparse
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Iterator, List, Optional

# Measuring processes are started while grpc's threads run. They exec at once, so grpc need not
# prepare for a fork, and what it does there crashes now and then (Python 3.8, which really forks,
# grpcio 1.70). Has to be set before grpc is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from paretrim_worker.board import Board
from paretrim_worker.errors import WorkerError
from paretrim_worker.power import find_meter
from paretrim_worker.runtimes import NAMES
from paretrim_worker.sandbox import ChildOptions, Sandbox
from paretrim_worker.security import Security, check_exposure, split_address
from paretrim_worker.server import Server
from paretrim_worker.service import Limits, Worker
from paretrim_worker.store import ModelStore
from paretrim_worker.turnstile import Turnstile

MIB = 1024 * 1024
WAKE_SECONDS = 0.5
FOLDER_PREFIX = "paretrim-worker-"


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="paretrim-worker",
        description="Time ONNX models on this device for paretrim, one at a time.",
    )
    options.add_argument("--listen", required=True, metavar="HOST:PORT", help="port 0: any free")
    options.add_argument("--runtime", choices=NAMES, required=True)
    options.add_argument("--processor", default="auto", help="auto, cpu, cuda or tensorrt")
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU runtimes")
    options.add_argument("--trtexec", default="", metavar="PATH")
    options.add_argument("--tls-cert", type=Path, metavar="FILE")
    options.add_argument("--tls-key", type=Path, metavar="FILE")
    options.add_argument("--tls-client-ca", type=Path, metavar="FILE", help="wants certificates")
    options.add_argument("--token-file", type=Path, metavar="FILE", help="the token, mode 600")
    options.add_argument("--insecure", action="store_true", help="no TLS, no token: loopback only")
    options.add_argument("--queue", type=int, default=8, help="calls that may wait")
    options.add_argument("--max-seconds", type=float, default=900.0, help="of any one call")
    options.add_argument("--max-model-mb", type=int, default=256)
    options.add_argument("--store-mb", type=int, default=2048, help="of all models kept")
    options.add_argument(
        "--memory-mb", type=int, default=4096, help="address space of a measurement on a CPU"
    )
    return options


def main(arguments: Optional[List[str]] = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s", level=logging.INFO)
    chosen = parser().parse_args(arguments)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    try:
        with serving(chosen) as server:
            host, _ = split_address(chosen.listen)
            print("paretrim-worker listens on {}:{}".format(host, server.port), flush=True)
            # The kernel may hand the signal to one of grpc's threads; Python's handler then runs
            # only when this thread wakes up.
            while not stopped.wait(WAKE_SECONDS):
                pass
    except WorkerError as error:
        print("paretrim-worker: {}".format(error), file=sys.stderr)
        return 2
    return 0


@contextlib.contextmanager
def serving(chosen: argparse.Namespace) -> Iterator[Server]:
    """Start a server, end it and delete all it wrote afterwards.

    Raises:
        WorkerError: If an option is wrong or the runtime cannot start.
    """
    security = Security(
        chosen.tls_cert, chosen.tls_key, chosen.tls_client_ca, chosen.token_file, chosen.insecure
    )
    check_exposure(split_address(chosen.listen)[0], security)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(private_folder())
        store = ModelStore(chosen.max_model_mb * MIB, chosen.store_mb * MIB, parent=scratch)
        sandbox = Sandbox(child_options(chosen, scratch / "child"))
        stack.callback(sandbox.close)
        sandbox.facts()  # a runtime that cannot start is told now
        meter = find_meter()
        if meter is not None:
            stack.callback(meter.close)
        limits = Limits(chosen.max_seconds, chosen.queue)
        worker = Worker(
            sandbox, store, Turnstile(limits.queue), Board(), meter, limits, chosen.threads
        )
        server = Server(chosen.listen, security, worker)
        stack.callback(server.stop)
        yield server


def child_options(chosen: argparse.Namespace, scratch: Path) -> ChildOptions:
    """How the measuring process is started."""
    return ChildOptions(
        chosen.runtime,
        chosen.threads,
        chosen.processor,
        scratch,
        chosen.trtexec,
        chosen.memory_mb * MIB,
    )


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of this process alone (mode 0700), deleted afterwards.

    Folders of workers that were killed are deleted too; the name tells the process.
    """
    parent = Path(tempfile.gettempdir())
    for folder in parent.glob(FOLDER_PREFIX + "*-*"):
        number = folder.name[len(FOLDER_PREFIX) :].split("-")[0]
        if number.isdigit() and not is_running(int(number)):
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="{}{}-".format(FOLDER_PREFIX, os.getpid())))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_running(pid: int) -> bool:
    """Whether a process of this number exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


if __name__ == "__main__":
    sys.exit(main())

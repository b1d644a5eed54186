"""The distribution as a board gets it: an old Python, nothing of the project around it.

The whole suite runs in the oldest Python; in 3.10 the calls and what protects them, because all
of it takes a minute more. With PARETRIM_WHOLE_SUITE=1 all of it runs in every one of them:

    PARETRIM_WHOLE_SUITE=1 pytest tests/worker/test_other_pythons.py
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE_LIMIT_MB = 150
SUITE = ("pytest", "onnx", "onnxruntime", "hypothesis", "trustme")
ABSENT = ("torch", "ray", "ultralytics", "hw_models")
TIMEOUT_S = 300
WHOLE_SUITE = os.environ.get("PARETRIM_WHOLE_SUITE") == "1"


def find_python(version):
    """An interpreter of this version: on the path, or one of pyenv's."""
    found = [shutil.which("python" + version)]
    found += sorted(Path.home().glob(".pyenv/versions/%s.*/bin/python" % version))
    asks = "import sys; sys.exit('%d.%d' % sys.version_info[:2] != sys.argv[1])"
    for path in filter(None, found):
        if (
            subprocess.run(
                [str(path), "-c", asks, version], check=False, stderr=subprocess.DEVNULL
            ).returncode
            == 0
        ):
            return str(path)
    pytest.skip("no Python " + version + " here")


def run(*command, **options):
    """Run a command to its end; what it printed is shown if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        env=environment,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def size_mb(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "chosen"),
    [
        ("3.8", ()),
        ("3.10", () if WHOLE_SUITE else ("-k", "TestCalls or test_tls or test_stubs")),
        pytest.param("3.11", (), marks=pytest.mark.skipif(not WHOLE_SUITE, reason="the project's")),
    ],
)
def test_installs_and_passes_its_suite(tmp_path, version, chosen):
    if sys.version_info < (3, 9):
        pytest.skip("this is such an environment already")
    source = tmp_path / "worker"
    shutil.copytree(
        str(REPOSITORY / "hw_models" / "worker"),
        str(source),
        ignore=shutil.ignore_patterns(".stubs-venv", "build", "*.egg-info"),
    )
    run(find_python(version), "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    before_mb = size_mb(packages)
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", source)
    assert size_mb(packages) - before_mb < SIZE_LIMIT_MB
    assert "--listen" in run(tmp_path / "venv" / "bin" / "paretrim-worker", "--help")

    run(python, "-m", "pip", "install", "--quiet", "--no-compile", *SUITE)
    for name in ABSENT:
        assert not (packages / name).exists()
    options = ["-c", source / "pyproject.toml", "--rootdir", REPOSITORY, "-p", "no:cacheprovider"]
    suite = REPOSITORY / "tests" / "worker"
    printed = run(
        python, "-m", "pytest", "-q", "-m", "not slow", *options, *chosen, suite, cwd=str(tmp_path)
    )
    assert "passed" in printed

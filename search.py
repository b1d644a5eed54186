"""The launcher: `python search.py --latency 30ms` is `paretrim search --latency 30ms`.

It also is all that `ray submit` copies to a cluster's head node. There, as here, the packages lie
beside it: cluster.yaml puts them there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGES = ("hw_models", "spaces", "evaluators", "search")
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set where `ray job submit` runs its command


def launch() -> None:
    """Run the command line, or say which packages are missing beside this file."""
    here = Path(__file__).resolve().parent
    missing = [name for name in PACKAGES if not (here / name / "__init__.py").is_file()]
    if missing:
        sys.exit(
            f"error: expected the packages {', '.join(PACKAGES)} beside {here / 'search.py'}, but "
            f"{', '.join(missing)} is not there. On a cluster the file_mounts put them there "
            "(`ray up cluster.yaml`); elsewhere run search.py from the repository."
        )
    # Found as the package search/, not as this file: a package wins over a module beside it.
    from search.cli import main

    main(["search", *sys.argv[1:], *kept_project(sys.argv[1:])])


def kept_project(arguments: list[str]) -> list[str]:
    """Return the option that keeps the runs of a Ray job: its working directory is not kept."""
    given = any(argument.split("=")[0] == "--project" for argument in arguments)
    return (
        ["--project", str(Path.home() / "runs" / "search")]
        if IN_A_JOB in os.environ and not given
        else []
    )


if __name__ == "__main__":
    launch()

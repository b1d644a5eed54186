"""cluster.yaml as Ray reads it, and a driver that joins a cluster that is already running."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.cluster_utils import Cluster

from search.actors import PACKAGES
from tests.search.test_cli import ROOT
from tests.search.test_end_to_end import finish, journal_of, start


def test_cluster_yaml_fits_rays_schema() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))


def test_all_packages_are_mounted_beside_the_launcher() -> None:
    mounts = yaml.safe_load((ROOT / "cluster.yaml").read_text())["file_mounts"]
    for package in PACKAGES:
        assert mounts[f"~/{package}"] == package
        assert (ROOT / package / "__init__.py").is_file()


def test_a_search_joins_a_running_cluster(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=2)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        run = tmp_path / "exp"
        quick = ("--method", "nsga2", "--evals", "6", "--latency", "80%")
        output = finish(start(run, "--data", tiny_data, *quick))
    finally:
        cluster.shutdown()
    assert "RayPool pool of 3" in output
    assert len({record["where"] for record in journal_of(run)}) == 3

"""cluster.yaml as Ray reads it, and a driver that joins a cluster that is already running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.cluster_utils import Cluster

from search.actors import PACKAGES
from tests.search.test_cli import ROOT
from tests.search.test_end_to_end import finish, journal_of, start

FILES = ("cluster.yaml", "cluster.aws.yaml", "cluster.gcp.yaml")
CLOUDS = FILES[1:]


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_it_fits_rays_schema(name: str) -> None:
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", FILES)
def test_all_packages_are_mounted_beside_the_launcher(name: str) -> None:
    mounts = read(name)["file_mounts"]
    for package in PACKAGES:
        assert mounts[f"~/{package}"] == package
        assert (ROOT / package / "__init__.py").is_file()


@pytest.mark.parametrize("name", FILES)
def test_every_node_wants_the_token_and_the_dashboard_stays_at_home(name: str) -> None:
    config = read(name)
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    assert "RAY_AUTH_MODE=token" in head
    assert "RAY_AUTH_MODE=token" in worker
    assert "--dashboard-host=127.0.0.1" in head
    assert config["cluster_synced_files"] == ["~/.ray/auth_token"]
    assert "get-auth-token --generate" in config["head_setup_commands"][-1]


@pytest.mark.parametrize("name", CLOUDS)
def test_on_a_cloud_the_head_evaluates_nothing_and_gpus_are_for_those_who_ask(name: str) -> None:
    config = read(name)
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]
    kinds = config["available_node_types"]
    assert kinds[config["head_node_type"]]["resources"]["CPU"] == 0
    assert kinds["cpu"]["min_workers"] > 0
    assert kinds["gpu"]["min_workers"] == 0 < kinds["gpu"]["max_workers"]


@pytest.mark.parametrize("name", CLOUDS)
def test_a_cloud_is_set_up_as_ones_own_machines_are(name: str) -> None:
    own, cloud = read("cluster.yaml"), read(name)
    for key in ("file_mounts", "rsync_exclude", "cluster_synced_files", "setup_commands"):
        assert cloud[key] == own[key]


def test_a_search_joins_a_running_cluster(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=2)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        run = tmp_path / "exp"
        quick = ("--method", "nsga2", "--evals", "6", "--latency", "80%", "--imgsz", "160")
        output = finish(start(run, "--data", tiny_data, *quick))
    finally:
        cluster.shutdown()
    assert "RayPool pool of 3" in output
    assert len({record["where"] for record in journal_of(run)}) == 3

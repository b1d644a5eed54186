"""How many actors each node is to have."""

from __future__ import annotations

import pytest

from search.nodes import ACTORS_PER_GPU, Node, allot, units


def node(name: str, cpus: float, gpus: float = 0.0) -> Node:
    return Node(name, f"10.0.0.{name}", cpus, gpus)


@pytest.mark.parametrize("use_gpus", [False, True])
def test_without_gpus_an_actor_takes_a_cpu(use_gpus: bool) -> None:
    nodes = [node("1", 4), node("2", 2)]
    assert units(nodes, use_gpus) == {"1": 4, "2": 2}
    assert allot(nodes, None, 1.0, use_gpus) == {"1": 4, "2": 2}


def test_gpus_do_not_matter_to_small_networks() -> None:
    assert units([node("1", 16, 1), node("2", 64)], use_gpus=False) == {"1": 16, "2": 64}


def test_where_there_are_gpus_several_actors_share_one_and_cpus_alone_get_none() -> None:
    nodes = [node("1", 16, 1), node("2", 64), node("3", 32, 2)]
    assert units(nodes, use_gpus=True) == {"1": ACTORS_PER_GPU, "2": 0, "3": 2 * ACTORS_PER_GPU}


def test_a_gpu_gets_no_more_actors_than_it_has_cpus_but_one() -> None:
    assert units([node("1", 1, 1)], use_gpus=True) == {"1": 1}
    assert units([node("1", 0, 1)], use_gpus=True) == {"1": 1}


def test_few_actors_use_every_node_and_many_take_less_each() -> None:
    nodes = [node("1", 4), node("2", 2)]
    assert allot(nodes, 2, 1.0, False) == {"1": 1, "2": 1}
    assert allot(nodes, 12, 0.5, False) == {"1": 8, "2": 4}

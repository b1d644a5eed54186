"""How many actors each node is to have."""

from __future__ import annotations

from search.nodes import ACTORS_PER_GPU, Node, allot, units


def node(name: str, cpus: float, gpus: float = 0.0) -> Node:
    return Node(name, f"10.0.0.{name}", cpus, gpus)


def test_without_gpus_an_actor_takes_a_cpu() -> None:
    nodes = [node("1", 4), node("2", 2)]
    assert units(nodes) == {"1": 4, "2": 2}
    assert allot(nodes, None, 1.0) == {"1": 4, "2": 2}


def test_where_there_are_gpus_several_actors_share_one_and_cpus_alone_get_none() -> None:
    nodes = [node("1", 16, 1), node("2", 64), node("3", 32, 2)]
    assert units(nodes) == {"1": ACTORS_PER_GPU, "2": 0, "3": 2 * ACTORS_PER_GPU}


def test_a_gpu_gets_no_more_actors_than_it_has_cpus_but_one() -> None:
    assert units([node("1", 2, 1)]) == {"1": 2}
    assert units([node("1", 0, 1)]) == {"1": 1}


def test_few_actors_use_every_node_and_many_take_less_each() -> None:
    nodes = [node("1", 4), node("2", 2)]
    assert allot(nodes, 2, 1.0) == {"1": 1, "2": 1}
    assert allot(nodes, 12, 0.5) == {"1": 8, "2": 4}

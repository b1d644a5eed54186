"""The nodes of the Ray cluster, and how many actors each of them is to have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import ray

ACTORS_PER_GPU = 2  # one finds and scores detections, on a CPU, while the other computes


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster.

    Attributes:
        name: Ray's id of it; a host that comes back has another one.
        address: Its IP address.
        cpus: What it offers, used or not.
        gpus: The same.
    """

    name: str
    address: str
    cpus: float
    gpus: float


def alive_nodes() -> dict[str, Node]:
    """Return the nodes that are alive, by name."""
    return {
        node["NodeID"]: Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    }


def units(nodes: Collection[Node], use_gpus: bool) -> dict[str, int]:
    """Return what an actor takes one of, by node: CPUs, or shares of GPUs where there are any.

    Of a node with GPUs no more than its CPUs can serve.
    """
    if use_gpus and any(node.gpus >= 1 for node in nodes):
        return {
            node.name: min(int(node.gpus) * ACTORS_PER_GPU, max(int(node.cpus), 1))
            for node in nodes
        }
    return {node.name: int(node.cpus) for node in nodes}


def allot(nodes: Collection[Node], limit: int | None, share: float, use_gpus: bool) -> Counter[str]:
    """Return how many actors each node is to have.

    Nodes fill in turn, so that few actors still use every node.

    Args:
        nodes: All nodes.
        limit: Most actors of all; None for as many as fit.
        share: Part of a unit that an actor takes, above 0.
        use_gpus: Whether actors share GPUs where there are any.
    """
    places = sorted(
        (place, name)
        for name, count in units(nodes, use_gpus).items()
        for place in range(int(count / share + 1e-6))
    )
    return Counter(name for _, name in places[:limit])

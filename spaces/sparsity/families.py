"""Parents and children of R-TOSS: a child shares the patterns that its parent chose.

R-TOSS (arXiv 2303.02191, algorithm 1) walks the computation graph depth first and puts a layer with
a single parent into that parent's family, so that patterns are chosen once a family. A layer that
reads several others (behind a concatenation or an addition) begins a family of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from hw_models.workload import ConvShape
from spaces.groups import Network


def families(network: Network) -> Mapping[str, str]:
    """Return for each convolution the head of its family, itself for a head.

    Args:
        network: What `spaces.groups.analyse` found.
    """
    parents: dict[int, list[int]] = {
        index: [] for index, step in enumerate(network.steps) if isinstance(step, ConvShape)
    }
    for index in parents:
        for reader in network.readers[index]:
            parents[reader].append(index)
    heads: dict[int, int] = {}

    def descend(index: int, head: int) -> None:
        heads[index] = head
        for child in network.readers[index]:
            if child not in heads and parents[child] == [index]:
                descend(child, head)

    for index in parents:
        if len(parents[index]) != 1:
            descend(index, index)
    names = {index: network.steps[index].name for index in parents}
    return {names[index]: names[head] for index, head in heads.items()}

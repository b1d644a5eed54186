"""Costs as the solvers want them: by part of the network, and as a sum of small tables."""

from __future__ import annotations

from functools import partial

import numpy as np

from hw_models.cost import CostModel, Tables
from search.solvers.terms import Floats, Genomes, Parts
from spaces.space import SearchSpace


def part_costs(model: CostModel, space: SearchSpace) -> Parts:
    """Return the function from genomes [N, V] to the cost of each part [N, P, D].

    Parts are the convolutions, the other ops, and last what an inference costs beyond its layers.
    D is latency in ms, energy in mJ (0 where the profile has none) and size in bytes.
    """
    return partial(_part_costs, model, space, Tables(model.profile, model.mode))


def _part_costs(
    model: CostModel, space: SearchSpace, tables: Tables, genomes_NV: Genomes
) -> Floats:
    batch = space.workloads(genomes_NV)
    layers = (tables.convs(batch.convs, batch.batch), tables.others(batch.others, batch.batch))
    names = (("time_us", 1e-3), ("energy_uj", 1e-3), ("size_bytes", 1.0))
    rows = [
        np.concatenate([_rows(getattr(arrays, name), len(genomes_NV)) for arrays in layers], axis=1)
        * factor
        for name, factor in names
    ]
    costs_NPD = np.stack(rows, axis=2)
    totals = model.predict_batch(batch)
    totals_ND = np.stack([totals.latency_ms, totals.energy_mj, totals.size_bytes], axis=1)
    rest_ND = np.broadcast_to(totals_ND, (len(genomes_NV), 3)) - costs_NPD.sum(axis=1)
    # What is left is constant but for rounding: the first genome speaks for all.
    rest_N1D = np.repeat(rest_ND[:1, None], len(genomes_NV), axis=0)
    return np.nan_to_num(np.concatenate([costs_NPD, rest_N1D], axis=1))


def _rows(array: Floats, count: int) -> Floats:
    return np.broadcast_to(np.asarray(array, dtype=np.float64), (count, array.shape[1]))

"""Can the budgets be met at all? If not: how low it goes, what holds it there, what would help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from hw_models.cost import Cost, CostModel
from hw_models.device import load_profile, shipped_profiles
from hw_models.errors import InfeasibleError
from search.pricing import part_costs
from search.settings import Limits
from search.solvers.descent import descend
from search.solvers.terms import DIMENSIONS, Genomes, decompose
from spaces.space import SearchSpace

WORDS = {"latency_ms": ("latency", "ms", 1.0), "energy_mj": ("energy", "mJ", 1.0),
         "size_bytes": ("size", "MB", 1e6)}  # fmt: skip
STRIDES = 32  # steps in which smaller inputs are tried, in pixels
NAMED = 3  # layers, modes and devices that a message names at most


def check_feasible(model: CostModel, space: SearchSpace, limits: Sequence[Limits]) -> None:
    """Make sure that each budget can be met by some candidate, whatever its accuracy.

    Raises:
        InfeasibleError: With the lowest reachable value, what holds it, and what would help.
    """
    for field in DIMENSIONS:
        budgets = [b for limit in limits if (b := getattr(limit, field)) is not None]
        if not budgets:
            continue
        tightest = min(budgets)
        cheapest_V = np.asarray(space.upper, dtype=np.int64)
        if getattr(_cost(model, space, cheapest_V), field) <= tightest:
            continue
        cheapest_V = cheapest(model, space, field)
        lowest = _cost(model, space, cheapest_V)
        if getattr(lowest, field) > tightest:
            raise InfeasibleError(
                _message(model, lowest, field, tightest),
                _advice(model, space, cheapest_V, field, tightest),
            )


def cheapest(model: CostModel, space: SearchSpace, field: str) -> Genomes:
    """Return the genome [V] of least latency, energy or size; costs need not fall with levels."""
    upper_V = np.asarray(space.upper, dtype=np.int64)
    sized = [row for row, variable in enumerate(space.variables) if variable.name == "imgsz"]
    fixed_V = upper_V.copy()
    fixed_V[sized] = 0
    start_V = np.zeros_like(upper_V)
    start_V[sized] = upper_V[sized]  # the smallest input is the cheapest
    terms = decompose(part_costs(model, space), start_V, fixed_V)
    prices_ND = np.eye(len(DIMENSIONS))[[DIMENSIONS.index(field)] * 2]
    losses = [np.zeros(upper + 1) for upper in upper_V]
    starts_NV = np.stack([upper_V, start_V])
    found_NV = np.concatenate([descend(terms, losses, prices_ND, starts_NV), upper_V[None]])
    costs_N = getattr(model.predict_batch(space.workloads(found_NV)), field)
    return found_NV[int(np.argmin(costs_N))]


def _cost(model: CostModel, space: SearchSpace, genome_V: Genomes) -> Cost:
    return model.predict(space.workload(space.decode(genome_V)))


def _message(model: CostModel, lowest: Cost, field: str, budget: float) -> str:
    """Name the budget, the lowest value and the layers and fixed costs that hold it."""
    name, unit, factor = WORDS[field]
    value = getattr(lowest, field)
    layers = sorted(lowest.per_layer, key=lambda layer: -getattr(layer, field))[:NAMED]
    held = ", ".join(f"{x.name} {getattr(x, field) / factor:.3g} {unit}" for x in layers)
    fixed = max(value - sum(getattr(layer, field) for layer in lowest.per_layer), 0.0)
    beyond = f"{fixed / factor:.3g} {unit} do not depend on the layers; " if fixed > 0 else ""
    return (
        f"No candidate can meet the {name} budget of {budget / factor:.4g} {unit} on "
        f"{model.profile.name}: the lowest reachable {name} is {value / factor:.4g} {unit}, with "
        f"every layer at its smallest. Of it {beyond}the dearest layers are {held}."
    )


def _advice(
    model: CostModel, space: SearchSpace, cheapest_V: Genomes, field: str, budget: float
) -> str:
    """Say what the nearest reachable target is, and what else would bring this one in reach."""
    name, unit, factor = WORDS[field]
    value = getattr(_cost(model, space, cheapest_V), field)
    nearest = np.ceil(value / factor * 1e3) / 1e3  # never below what is reachable
    ways = [f"--{name} {nearest:g}{unit} is the nearest that can be met"]
    ways += _smaller_inputs(model, space, cheapest_V, field, budget)
    if field != "size_bytes":
        batch = space.workloads(cheapest_V[None])
        modes = {
            f"--power-mode {mode}": CostModel(model.profile, mode)
            for mode in model.profile.power_modes
        }
        devices = {
            f"--target {other}": CostModel(load_profile(other)) for other in shipped_profiles()
        }
        for others in (modes, devices):
            reach = [
                option
                for option, other in others.items()
                if float(getattr(other.predict_batch(batch), field)[0]) <= budget
            ]
            ways += [f"{', '.join(reach[:NAMED])} could"] if reach else []
    return "; ".join(ways) + "."


def _smaller_inputs(
    model: CostModel, space: SearchSpace, cheapest_V: Genomes, field: str, budget: float
) -> Iterator[str]:
    """Yield the largest smaller input size at which the budget can be met, if there is one."""
    candidate = space.decode(cheapest_V)
    if field == "size_bytes":
        return
    for imgsz in range(candidate.imgsz - STRIDES, 0, -STRIDES):
        workload = space.workload(replace(candidate, imgsz=imgsz))
        if getattr(model.predict(workload), field) <= budget:
            yield f"a smaller input (--imgsz {imgsz}) would"
            return

"""Costs of genomes as a sum of small tables, found by asking a cost model.

A layer's cost depends on few variables: its input channels, its output channels, its bits. Moving
each variable alone tells which parts of the network it touches; the joint levels of those are then
enumerated. So the sum is exact, except for parts that depend on more levels than `LARGEST` (a
convolution behind a concatenation with many bit options): there the pair of variables that interact
least is taken apart, f(a, b, rest) ~ f(a, rest) + f(b, rest) - f(rest), the others at their start.

Axis letters: N genomes, V variables, P parts (layers and ops), D dimensions of cost.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Genomes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Scope = tuple[int, ...]

DIMENSIONS = ("latency_ms", "energy_mj", "size_bytes")
LATENCY, ENERGY, SIZE = range(3)
LARGEST = 512  # joint levels of one table
UNTOUCHED = 1e-9  # a relative change of a part's cost below this is none

Parts = Callable[[Genomes], Floats]
"""[N, V] genomes -> [N, P, D] cost of each part; what belongs to no part is a part of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A table over the levels of some variables.

    Attributes:
        variables: Their columns, ascending.
        costs: [levels of the first, ..., levels of the last, D].
    """

    variables: Scope
    costs: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """Costs of all genomes that agree with `start_V` where nothing varies.

    Attributes:
        start_V: The genome the tables were made around.
        upper_V: Largest level of each variable; 0 for one that stays at `start_V`.
        fixed_D: Cost of the parts that no variable touches.
        factors: Tables to be added up.
    """

    start_V: Genomes
    upper_V: Genomes
    fixed_D: Floats
    factors: tuple[Factor, ...]

    def costs(self, genomes_NV: Genomes) -> Floats:
        """Return the costs [N, D] of genomes [N, V]."""
        total_ND = np.repeat(self.fixed_D[None], len(genomes_NV), axis=0)
        for factor in self.factors:
            total_ND += factor.costs[tuple(genomes_NV[:, v] for v in factor.variables)]
        return total_ND


def decompose(parts: Parts, start_V: Genomes, upper_V: Genomes) -> Terms:
    """Ask for the cost of enough genomes to know that of every other.

    Args:
        parts: The cost model.
        start_V: Where all begins; variables with `upper_V` 0 stay there.
        upper_V: Largest level of each variable; those that vary stand at 0 in `start_V`.
    """
    start_V, upper_V = np.asarray(start_V), np.asarray(upper_V)
    start_PD = parts(start_V[None])[0]
    scopes = defaultdict[Scope, list[int]](list)
    for part, touched in enumerate(_touching(parts, start_V, upper_V, start_PD).T):
        scopes[tuple(np.flatnonzero(touched).tolist())].append(part)
    fixed_D = start_PD[scopes.pop((), [])].sum(axis=0)
    tables: dict[Scope, Floats] = {}
    for whole, members in scopes.items():
        for sign, scope in _small_scopes(parts, whole, members, start_V, upper_V):
            table = sign * _enumerate(parts, scope, members, start_V, upper_V)
            if scope:
                tables[scope] = tables.get(scope, 0.0) + table
            else:
                fixed_D = fixed_D + table
    return Terms(start_V, upper_V, fixed_D, tuple(_absorbed(tables)))


def restricted(terms: Terms, columns: Sequence[int]) -> Terms:
    """Return the same costs with only some variables free; the others stay at `start_V`."""
    free = set(columns)
    upper_V = np.where([v in free for v in range(len(terms.upper_V))], terms.upper_V, 0)
    tables: dict[Scope, Floats] = {}
    fixed_D = terms.fixed_D
    for factor in terms.factors:
        scope = tuple(v for v in factor.variables if v in free)
        table = factor.costs[tuple(slice(None) if v in free else 0 for v in factor.variables)]
        if scope:
            tables[scope] = tables.get(scope, 0.0) + table
        else:
            fixed_D = fixed_D + table
    return Terms(terms.start_V, upper_V, fixed_D, tuple(_absorbed(tables)))


def _touching(parts: Parts, start_V: Genomes, upper_V: Genomes, start_PD: Floats) -> Genomes:
    """Tell for each variable [V, P] whether it changes a part's cost when moved alone."""
    moves = [(v, level) for v, upper in enumerate(upper_V) for level in range(1, upper + 1)]
    touched_VP = np.zeros((len(upper_V), len(start_PD)), dtype=np.int64)
    if moves:
        genomes_NV = np.repeat(start_V[None], len(moves), axis=0)
        genomes_NV[np.arange(len(moves)), [v for v, _ in moves]] = [level for _, level in moves]
        change_NP = (np.abs(parts(genomes_NV) - start_PD) > UNTOUCHED * np.abs(start_PD)).any(2)
        np.bitwise_or.at(touched_VP, [v for v, _ in moves], change_NP)
    return touched_VP


def _enumerate(
    parts: Parts, scope: Scope, members: Sequence[int], start_V: Genomes, upper_V: Genomes
) -> Floats:
    """Return the cost of some parts together at all levels of a scope [levels..., D]."""
    shape = tuple(int(upper_V[v]) + 1 for v in scope)
    genomes_NV = np.repeat(start_V[None], int(np.prod(shape)), axis=0)
    for axis, variable in enumerate(scope):
        genomes_NV[:, variable] = np.indices(shape)[axis].ravel()
    costs_ND = parts(genomes_NV)[:, members].sum(axis=1)
    return costs_ND.reshape(*shape, costs_ND.shape[1])


def _small_scopes(
    parts: Parts, scope: Scope, members: Sequence[int], start_V: Genomes, upper_V: Genomes
) -> Iterator[tuple[int, Scope]]:
    """Yield signed scopes of at most `LARGEST` joint levels whose tables add up to the whole."""
    if len(scope) < 3 or np.prod([int(upper_V[v]) + 1 for v in scope]) <= LARGEST:
        yield 1, scope
        return
    first, second = _least_interacting(parts, scope, members, start_V, upper_V)
    for sign, left_out in ((1, {first}), (1, {second}), (-1, {first, second})):
        rest = tuple(v for v in scope if v not in left_out)
        for inner, small in _small_scopes(parts, rest, members, start_V, upper_V):
            yield sign * inner, small


def _least_interacting(
    parts: Parts, scope: Scope, members: Sequence[int], start_V: Genomes, upper_V: Genomes
) -> tuple[int, int]:
    """Return the two variables whose joint effect is closest to the sum of their effects."""
    pairs = list(itertools.combinations(scope, 2))
    corners_NV = np.repeat(start_V[None], 4 * len(pairs), axis=0)
    for row, (u, v) in enumerate(pairs):
        corners_NV[4 * row + 1 : 4 * row + 3, u] = (upper_V[u], 0)
        corners_NV[4 * row + 1 : 4 * row + 3, v] = (0, upper_V[v])
        corners_NV[4 * row + 3, [u, v]] = upper_V[[u, v]]
    costs_ND = parts(corners_NV)[:, members].sum(axis=1)
    none, one, other, both = costs_ND.reshape(len(pairs), 4, -1).transpose(1, 0, 2)
    interaction = np.abs(both - one - other + none) / np.maximum(np.abs(none), 1e-12)
    return pairs[int(interaction.sum(axis=1).argmin())]


def _absorbed(tables: dict[Scope, Floats]) -> Iterator[Factor]:
    """Yield the tables, each that lies within another one added to it."""
    kept: dict[Scope, Floats] = {}
    for scope in sorted(tables, key=len, reverse=True):
        host = next((other for other in kept if set(scope) <= set(other)), None)
        if host is None:
            kept[scope] = tables[scope]
            continue
        sizes = kept[host].shape
        shape = [sizes[axis] if v in scope else 1 for axis, v in enumerate(host)]
        kept[host] = kept[host] + tables[scope].reshape(*shape, -1)
    for scope, table in kept.items():
        yield Factor(scope, table)

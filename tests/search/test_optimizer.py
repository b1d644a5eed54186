from __future__ import annotations

import numpy as np
import pytest

from search.explorer import FAILED
from search.optimizer import Optimizer

UPPER = np.full(8, 4)
SEEDS = np.stack([np.zeros(8, dtype=np.int64), UPPER])


def toy(genomes_NV: np.ndarray) -> np.ndarray:
    """Convex trade-off: the front is everything between all-0 and all-4."""
    return np.stack([(genomes_NV**2).sum(1), ((UPPER - genomes_NV) ** 2).sum(1)], 1).astype(float)


def make(seed: int = 0, batch: int = 12) -> Optimizer:
    return Optimizer(SEEDS, UPPER, objectives=2, batch=batch, seed=seed)


def run(optimizer: Optimizer, generations: int) -> np.ndarray:
    asked = []
    for _ in range(generations):
        genomes_NV = optimizer.ask()
        asked.append(genomes_NV)
        optimizer.tell(genomes_NV, toy(genomes_NV))
    return np.concatenate(asked)


def test_seeds_come_first() -> None:
    np.testing.assert_array_equal(make().ask(), SEEDS)


def test_no_genome_is_asked_twice_and_all_are_in_range() -> None:
    asked = run(make(), 20)
    assert len(np.unique(asked, axis=0)) == len(asked)
    assert asked.min() >= 0
    assert (asked <= UPPER).all()


def test_same_seed_same_asks_other_seed_other_asks() -> None:
    np.testing.assert_array_equal(run(make(1), 6), run(make(1), 6))
    assert not np.array_equal(run(make(1), 6), run(make(2), 6))


def test_it_optimises() -> None:
    # The sum of both objectives is smallest, 8 * (2² + 2²) = 64, where every variable is 2.
    asked = run(make(), 40)
    random = np.random.default_rng(0).integers(0, 5, asked.shape)
    assert toy(asked).sum(1).min() <= toy(random).sum(1).min()


def test_an_exhausted_space_asks_for_nothing() -> None:
    optimizer = Optimizer(np.zeros((1, 2), dtype=int), np.array([1, 2]), 2, batch=4, seed=0)
    asked = []
    while len(genomes_NV := optimizer.ask()):
        asked.extend(map(tuple, genomes_NV))
        optimizer.tell(
            genomes_NV, np.stack([genomes_NV.sum(1), -genomes_NV.sum(1)], 1).astype(float)
        )
    assert sorted(asked) == [(a, b) for a in range(2) for b in range(3)]


def test_failed_genomes_do_not_survive() -> None:
    optimizer = make()
    tell_seeds(optimizer)
    genomes_NV = optimizer.ask()
    F_NM = toy(genomes_NV)
    F_NM[0] = FAILED
    optimizer.tell(genomes_NV, F_NM)
    offspring = optimizer.ask()  # the failed one is the worst of its generation, not an error
    assert len(offspring) == 12


def tell_seeds(optimizer: Optimizer) -> None:
    genomes_NV = optimizer.ask()
    optimizer.tell(genomes_NV, toy(genomes_NV))


def test_more_can_be_asked_for_while_some_are_pending() -> None:
    optimizer = make()
    tell_seeds(optimizer)
    first = optimizer.ask()
    optimizer.tell(first[:4], toy(first[:4]))
    second = optimizer.ask()
    assert not {tuple(x) for x in first} & {tuple(x) for x in second}
    both = np.concatenate([second[:3], first[4:]])  # of two generations, in any order
    optimizer.tell(both, toy(both))
    with pytest.raises(RuntimeError, match="not pending"):
        optimizer.tell(first[:1], toy(first[:1]))


def test_asking_before_any_seed_was_told_is_an_error() -> None:
    optimizer = make()
    optimizer.ask()
    with pytest.raises(RuntimeError, match="before tell"):
        optimizer.ask()


def test_telling_without_asking_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="without ask"):
        make().tell(SEEDS, np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        (np.zeros((3, 2)), "shape"),
        (np.array([[0.0, np.nan], [0, 0]]), "NaN"),
        (np.array([[0.0, np.inf], [0, 0]]), "infinity"),
    ],
)
def test_bad_objectives_are_refused(told: np.ndarray, complaint: str) -> None:
    optimizer = make()
    genomes_NV = optimizer.ask()
    with pytest.raises(ValueError, match=complaint):
        optimizer.tell(genomes_NV, told)


@pytest.mark.parametrize("seeds", [np.zeros((2, 7), dtype=int), np.full((1, 8), 5)])
def test_bad_seeds_are_refused(seeds: np.ndarray) -> None:
    with pytest.raises(ValueError, match="seeds"):
        Optimizer(seeds, UPPER, objectives=2, batch=4, seed=0)


def test_proposals_compete_with_offspring_under_a_screen() -> None:
    optimizer = make()
    tell_seeds(optimizer)
    proposals = np.array([[1] * 8, [0] * 8, [2] * 8])  # the second was asked for already

    def cheapest(genomes_NV: np.ndarray, count: int) -> np.ndarray:
        return toy(genomes_NV).sum(1).argsort(kind="stable")[:count]

    asked = optimizer.ask(proposals, cheapest)
    assert len(asked) == 12
    assert asked[0].tolist() == [2] * 8
    assert not (asked == 0).all(axis=1).any()


def test_genomes_of_the_same_candidate_are_asked_for_once() -> None:
    """Where the first variable stands at 1, the second makes no difference."""

    def canonical(genomes_NV: np.ndarray) -> np.ndarray:
        genomes_NV = genomes_NV.copy()
        genomes_NV[genomes_NV[:, 0] == 1, 1] = 0
        return genomes_NV

    start = np.zeros((1, 2), dtype=int)
    optimizer = Optimizer(start, np.array([1, 3]), 2, batch=4, seed=0, canonical=canonical)
    asked = list[tuple[int, ...]]()
    for _ in range(30):
        genomes_NV = optimizer.ask(np.array([[1, 1], [1, 2], [0, 3]]))
        if len(genomes_NV):
            asked += map(tuple, genomes_NV.tolist())
            optimizer.tell(genomes_NV, genomes_NV.astype(float))
    assert len(asked) == len(set(asked))
    assert [genome for genome in asked if genome[0] == 1] == [(1, 0)]

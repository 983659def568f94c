"""Search for settings that are good in several ways at once."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sona._sealed import Told
from sona.exceptions import ConfigError, NotFiniteError, ShapeError

__all__ = ["AdaptiveArchitecture", "ParetoFront", "crowding_distance", "hypervolume", "non_dominated_sort"]

Matrix = npt.NDArray[np.float64]
#: Largest population: sorting compares every two.
_LARGEST = 10_000


def _points(F: npt.ArrayLike) -> Matrix:
    f = np.asarray(F, dtype=np.float64)
    if f.shape == (0,):
        f = f.reshape(0, 1)
    if f.ndim != 2 or f.shape[1] < 1:
        raise ShapeError(f"F: expected shape (n, m), got {f.shape}")
    if not np.isfinite(f).all():
        raise NotFiniteError(f"F: expected finite numbers, got {f[~np.isfinite(f)][0]}")
    return f


def non_dominated_sort(F: npt.ArrayLike) -> list[list[int]]:
    """Fronts of points, all objectives minimised.

    Parameters
    ----------
    F : (n, m) array_like of float

    Returns
    -------
    list of list of int
        Row numbers; no point of a front is dominated by one of the same or a later front. O(m n²).

    References
    ----------
    Deb et al. 2002, A fast and elitist multiobjective genetic algorithm: NSGA-II, §III-A.

    Examples
    --------
    >>> from sona.control import non_dominated_sort
    >>> non_dominated_sort([[1, 4], [2, 2], [4, 1], [3, 3]])
    [[0, 1, 2], [3]]
    """
    f = _points(F)
    less: npt.NDArray[np.bool_] = np.all(f[:, None] <= f[None], axis=2) & np.any(f[:, None] < f[None], axis=2)
    above = less.sum(axis=0)
    fronts = []
    left = np.ones(len(f), dtype=bool)
    while left.any():
        front = np.flatnonzero(left & (above == 0))
        fronts.append(front.tolist())
        left[front] = False
        above = above - less[front].sum(axis=0)
    return fronts


def crowding_distance(F: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """How far the neighbours of each point are along every objective, as shares of its range, summed.

    Parameters
    ----------
    F : (n, m) array_like of float
        One front.

    Returns
    -------
    (n,) float64
        Infinite at the ends. O(m n log n). Deb et al. 2002, §III-B.

    Examples
    --------
    >>> from sona.control import crowding_distance
    >>> crowding_distance([[0, 4], [1, 2], [4, 0]])
    array([inf,  2., inf])
    """
    f = _points(F)
    out = np.zeros(len(f))
    if not len(f):
        return out
    for column in f.T:
        order = np.argsort(column, kind="stable")
        out[order[[0, -1]]] = np.inf
        span = column[order[-1]] - column[order[0]]
        if span > 0:
            out[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return out


def hypervolume(F: npt.ArrayLike, ref: npt.ArrayLike) -> float:
    """Volume that points dominate, up to a reference point; all objectives minimised.

    Parameters
    ----------
    F : (n, m) array_like of float
    ref : (m,) array_like of float

    Returns
    -------
    float
        Points that are not better than `ref` everywhere add nothing. Exact, by slicing one objective after the other:
        O(n log n) for two objectives, O(nᵐ⁻¹) for m. Zitzler & Thiele 1998.

    Examples
    --------
    >>> from sona.control import hypervolume
    >>> hypervolume([[1, 2], [2, 1]], [3, 3])
    3.0
    """
    f = _points(F)
    r = np.asarray(ref, dtype=np.float64)
    if r.ndim != 1 or (len(f) and r.shape != (f.shape[1],)):
        raise ShapeError(f"ref: expected shape ({f.shape[1]},), got {r.shape}")
    if not np.isfinite(r).all():
        raise NotFiniteError("ref: expected finite numbers")
    if not len(f):
        return 0.0
    f = f[(f < r).all(axis=1)]
    return _volume(f, r)


def _volume(f: Matrix, r: Matrix) -> float:
    if not len(f):
        return 0.0
    if f.shape[1] == 1:
        return float(r[0] - f.min())
    f = f[np.argsort(f[:, 0], kind="stable")]
    if f.shape[1] == 2:
        ceiling = np.minimum.accumulate(np.concatenate([r[1:], f[:, 1]]))
        return float(((r[0] - f[:, 0]) * (ceiling[:-1] - ceiling[1:])).sum())
    ends = np.append(f[1:, 0], r[0])
    total = 0.0
    for i, (start, end) in enumerate(zip(f[:, 0].tolist(), ends.tolist(), strict=True)):
        total += (end - start) * _volume(f[: i + 1, 1:], r[1:])
    return total


@dataclass(frozen=True)
class ParetoFront:
    """Settings that no other setting seen beats in every objective."""

    configs: tuple[dict[str, Any], ...]
    objectives: Matrix
    """(n, m), one row per setting."""
    evaluations: int

    def best(self, weights: npt.ArrayLike) -> dict[str, Any]:
        """The setting with the least weighted sum of objectives."""
        return self.configs[int(np.argmin(self.objectives @ np.asarray(weights, dtype=np.float64)))]

    def __len__(self) -> int:
        return len(self.configs)


class AdaptiveArchitecture(Told):
    """NSGA-II over lists of values: the best trade-offs between, say, error, latency and bytes.

    Parameters
    ----------
    space : dict of str to list
        Values of every setting.
    population : int, default 20
        At least 4.
    seed : int, default 0

    Raises
    ------
    ConfigError
        If the space is empty or the population too small.

    Notes
    -----
    Parents meet in tournaments by front and crowding; children take each value from either parent and change one in
    len(space) at random. Parents and children compete for the next generation, so the best are never lost. A setting is
    evaluated once.

    References
    ----------
    Deb et al. 2002, NSGA-II.

    Examples
    --------
    >>> from sona.control import AdaptiveArchitecture
    >>> search = AdaptiveArchitecture({"rank": [1, 2, 4, 8], "bits": [4, 8]}, population=8)
    >>> front = search.evolve(lambda c: (1 / c["rank"] + 0.1 * (c["bits"] == 4), c["rank"] * c["bits"]), generations=5)
    >>> front.best([1.0, 0.0])
    {'rank': 8, 'bits': 8}
    """

    def __init__(self, space: Mapping[str, Sequence[Any]], *, population: int = 20, seed: int = 0) -> None:
        if not space or not all(len(values) for values in space.values()):
            raise ConfigError("space: expected at least one setting, each with at least one value")
        self._population = operator.index(population)
        if not 4 <= self._population <= _LARGEST:
            raise ConfigError(f"population: expected 4 to {_LARGEST}, got {population}")
        self._space = {name: list(values) for name, values in space.items()}
        self._rng = np.random.default_rng(seed)
        self._seen: dict[tuple[int, ...], tuple[float, ...]] = {}

    def evolve(self, evaluate: Callable[[dict[str, Any]], Sequence[float]], generations: int = 10) -> ParetoFront:
        """Search.

        Parameters
        ----------
        evaluate : callable
            Objectives of a setting, all minimised; always as many, all finite.
        generations : int, default 10

        Returns
        -------
        ParetoFront
            Of all settings seen, also in earlier calls.
        """
        if operator.index(generations) < 0:
            raise ValueError(f"generations: expected at least 0, got {generations}")
        sizes = [len(values) for values in self._space.values()]

        def judged(genes: list[tuple[int, ...]]) -> Matrix:
            for g in genes:
                if g not in self._seen:
                    self._seen[g] = tuple(float(v) for v in evaluate(self._config(g)))
            return _points([self._seen[g] for g in genes])

        known = list(self._seen)
        parents = [known[i] for f in (non_dominated_sort(list(self._seen.values())) if known else []) for i in f]
        parents = parents[: self._population]
        while len(parents) < self._population:
            parents.append(tuple(int(self._rng.integers(n)) for n in sizes))
        for _ in range(generations):
            if len(self._seen) >= math.prod(sizes):
                break
            rank, crowd = _order(judged(parents))
            children = [self._child(parents, rank, crowd, sizes) for _ in range(self._population)]
            both = list(dict.fromkeys(parents + children))
            rank, crowd = _order(judged(both))
            kept = np.lexsort((-crowd, rank))[: self._population]
            parents = [both[i] for i in kept]
            while len(parents) < self._population:
                parents.append(tuple(int(self._rng.integers(n)) for n in sizes))
        judged(parents)
        genes = list(self._seen)
        values = np.array([self._seen[g] for g in genes])
        first = non_dominated_sort(values)[0]
        first.sort(key=lambda i: tuple(values[i]))
        return ParetoFront(tuple(self._config(genes[i]) for i in first), values[first], len(genes))

    def _config(self, genes: tuple[int, ...]) -> dict[str, Any]:
        return {name: values[g] for (name, values), g in zip(self._space.items(), genes, strict=True)}

    def _child(
        self, parents: list[tuple[int, ...]], rank: npt.NDArray[np.int64], crowd: Matrix, sizes: list[int]
    ) -> tuple[int, ...]:
        def chosen() -> tuple[int, ...]:
            a, b = (int(i) for i in self._rng.integers(len(parents), size=2))
            return parents[a if (rank[a], -crowd[a]) <= (rank[b], -crowd[b]) else b]

        mother, father = chosen(), chosen()
        genes = [m if self._rng.random() < 0.5 else f for m, f in zip(mother, father, strict=True)]
        for i, n in enumerate(sizes):
            if self._rng.random() < 1 / len(sizes):
                genes[i] = int(self._rng.integers(n))
        return tuple(genes)

    def metrics(self) -> dict[str, int | float]:
        """Settings evaluated so far."""
        return {"evaluations": len(self._seen), "population": self._population}

    def _tell(self) -> dict[str, Any]:
        """The whole search; the values of the space have to be JSON."""
        return {
            "space": self._space,
            "population": self._population,
            "random": self._rng.bit_generator.state,
            "seen": [[list(genes), list(values)] for genes, values in self._seen.items()],
        }

    @classmethod
    def _told(cls, state: dict[str, Any]) -> Self:
        self = cls(state["space"], population=state["population"])
        self._rng.bit_generator.state = state["random"]
        sizes = [len(values) for values in self._space.values()]
        for genes, values in state["seen"]:
            if len(genes) != len(sizes) or not all(0 <= operator.index(g) < n for g, n in zip(genes, sizes, strict=True)):
                raise ValueError("a setting outside the space")
            self._seen[tuple(genes)] = tuple(float(v) for v in values)
        if self._seen:
            _points(list(self._seen.values()))
        return self

    def __repr__(self) -> str:
        size = int(np.prod([len(v) for v in self._space.values()], dtype=object))
        return f"AdaptiveArchitecture({list(self._space)}, {len(self._seen)} of {size} settings seen)"


def _order(F: Matrix) -> tuple[npt.NDArray[np.int64], Matrix]:
    rank = np.zeros(len(F), dtype=np.int64)
    crowd = np.zeros(len(F))
    for i, front in enumerate(non_dominated_sort(F)):
        rank[front] = i
        crowd[front] = crowding_distance(F[front])
    return rank, crowd

"""Directed acyclic graphs of work, and which nodes of one may attend which."""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np

from sona import _core
from sona.attention._arrays import Array, floats, integers
from sona.attention._errors import GraphError, ParameterError
from sona.exceptions import ShapeError

__all__ = ["Dag", "DagScores", "dag_mask"]

_MOST = 2**32 - 2


class DagScores(NamedTuple):
    """Attention to the nodes of a graph."""

    scores: Array
    """float64 ``(n,)``, at least 0, sum 1."""
    extras: dict[str, Any]
    """What else was computed on the way: arrays and numbers by name."""


def costs(name: str, x: Any, size: int) -> Array:
    """A float64 array of `size` finite numbers, at least 0; ones for None."""
    if x is None:
        return np.ones(size)
    a = floats([name], [x])[0].astype(np.float64)
    if a.shape != (size,):
        raise ShapeError(f"{name}: expected shape ({size},), got {a.shape}")
    # Also false for NaN.
    if not ((a >= 0.0) & (a < math.inf)).all():
        bad = int(np.flatnonzero(~((a >= 0.0) & (a < math.inf)))[0])
        raise ParameterError(f"{name}: expected finite numbers of at least 0, got {a[bad]} at {bad}")
    return a


def positive(name: str, x: Any, least: float = 0.0) -> float:
    """A finite float above 0, or not below `least` where that is given."""
    value = float(x)
    if not math.isfinite(value) or (value < least if least else value <= 0.0):
        raise ParameterError(f"{name}: expected {f'at least {least:g}' if least else 'a number above 0'}, got {value}")
    return value


def workers_count(workers: Any) -> float | None:
    """None, or a number of workers of at least 1."""
    return None if workers is None else positive("workers", workers, 1.0)


class Dag:
    """A directed acyclic graph: an edge (u, v) says that u is done before v.

    Parameters
    ----------
    n : int
        Number of nodes, which are 0 to n − 1.
    edges : array_like of int, shape (E, 2)
        Rows (u, v). Parallel edges are one, except for their volumes.
    cost : array_like, shape (n,), float32 or float64, optional
        Cost of each node (its running time), at least 0; default 1.
    edge_cost : array_like, shape (E,), float32 or float64, optional
        Volume of each edge (bytes sent along it), at least 0; default 1.

    Raises
    ------
    GraphError
        A node out of range, or edges that are not rows of two.
    CycleError
        A cycle or self loop; ``cycle`` lists its nodes in order.
    ShapeError
        Costs of the wrong length.
    ParameterError
        A cost that is negative, NaN or infinite.

    Notes
    -----
    Immutable, safe to share between threads. Time O((n + E)·log n), memory O(n + E).

    Examples
    --------
    >>> from sona.attention import Dag
    >>> g = Dag(4, [(0, 1), (0, 2), (1, 3), (2, 3)])
    >>> g.topological_order()
    array([0, 1, 2, 3])
    >>> g.levels()
    array([0, 1, 1, 2])
    """

    def __init__(self, n: int, edges: Any, cost: Any = None, edge_cost: Any = None) -> None:
        self.n = operator.index(n)
        if not 0 <= self.n <= _MOST:
            raise ParameterError(f"n: expected 0 to {_MOST}, got {self.n}")
        try:
            pairs = integers("edges", edges)
        except ShapeError as error:
            raise GraphError(str(error)) from error
        if pairs.size == 0:
            pairs = pairs.reshape(0, 2)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) > _MOST:
            raise GraphError(f"edges: expected rows (u, v), got shape {pairs.shape}")
        self.edges = pairs.copy()
        self.cost = costs("cost", cost, self.n)
        self.edge_cost = costs("edge_cost", edge_cost, len(pairs))
        self._graph = _core.DagGraph(self.n, self.edges, self.cost, self.edge_cost)
        for a in (self.edges, self.cost, self.edge_cost):
            a.flags.writeable = False

    def node(self, v: Any, name: str = "node") -> int:
        """`v` as an int; GraphError if there is no such node."""
        i = operator.index(v)
        if not 0 <= i < self.n:
            raise GraphError(f"{name}: expected 0 to {self.n - 1}, got {i}")
        return i

    def topological_order(self) -> Array:
        """Every node after its predecessors, int64 (n,); of the nodes available the smallest comes first."""
        return self._graph.order()

    def levels(self) -> Array:
        """Edges on the longest path from a node without predecessors, int64 (n,)."""
        return self._graph.levels(False)

    def ancestors(self, v: int) -> Array:
        """Which nodes reach v, bool (n,); v itself is False."""
        return self._graph.cone(self.node(v), True)

    def descendants(self, v: int) -> Array:
        """Which nodes v reaches, bool (n,); v itself is False."""
        return self._graph.cone(self.node(v), False)

    def reachability(self) -> Array:
        """Which node reaches which, bool (n, n): entry [u, v] says that u reaches v; the diagonal is False.

        O(n·E / 64) time.
        """
        return self._graph.reachability()

    def __len__(self) -> int:
        """Number of nodes."""
        return self.n

    def __repr__(self) -> str:
        """Sizes."""
        return f"<Dag: {self.n} nodes, {len(self.edges)} edges>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the constructor's arguments."""
        return Dag, (self.n, self.edges, self.cost, self.edge_cost)


def dag_mask(dag: Dag, kind: str, *, node: int | None = None) -> Array:
    """Mask for attention among the nodes of a graph, as `scaled_dot_product_attention` takes it.

    Parameters
    ----------
    dag : Dag
    kind : {"ancestors", "descendants", "cone", "level"}
        What row i may attend: what it depends on, what depends on it, both, or the nodes of its own level.
    node : int, optional
        Keep only pairs of which both are in the row of this node (the others attend themselves alone).

    Returns
    -------
    ndarray of bool, shape (n, n)
        Row i = what i may attend; the diagonal is True.

    Raises
    ------
    ParameterError
        An unknown kind.
    GraphError
        No such node.

    References
    ----------
    Luo, Thost & Shi 2023, "Transformers over Directed Acyclic Graphs" (reachability attention).

    Examples
    --------
    >>> from sona.attention import Dag, dag_mask
    >>> dag_mask(Dag(3, [(0, 1), (1, 2)]), "ancestors").astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """
    if kind == "level":
        level = dag.levels()
        mask = level[:, None] == level
    elif kind in ("ancestors", "descendants", "cone"):
        reach = dag.reachability()
        mask = {"ancestors": reach.T, "descendants": reach}.get(kind, reach | reach.T).copy(order="C")
    else:
        raise ParameterError(f"kind: expected ancestors, descendants, cone or level, got {kind!r}")
    diagonal = np.arange(dag.n)
    mask[diagonal, diagonal] = True
    if node is not None:
        own = mask[dag.node(node)]
        mask = mask & own & own[:, None]
        mask[diagonal, diagonal] = True
    return np.asarray(mask)
